package inference

import (
	"reflect"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/sidecar"
)

// TestClientConfig: every key about the client reaches the client's configuration.
func TestClientConfig(t *testing.T) {
	quarter := 0.25
	got := clientConfig(&job.Infer{
		Model: "m", Version: "2", NotIdempotent: true, OpenTimeout: time.Minute, MaxBatch: 3, MaxBatchBytes: 4, Window: 5, MaxMessage: 6,
		SharedMemory: 7, SharedMemoryMin: 8,
		Reconnect: job.Reconnect{Delay: time.Millisecond, MaxDelay: time.Second, Multiplier: 9, Jitter: &quarter},
	})
	want := sidecar.Config{
		Model: "m", Version: "2", NonIdempotent: true, OpenTimeout: time.Minute, MaxBatch: 3, MaxBytes: 4, Window: 5, MaxMessageSize: 6,
		SharedMemory: 7, SharedMemoryMin: 8,
		Backoff: sidecar.Backoff{Base: time.Millisecond, Max: time.Second, Factor: 9, Jitter: 0.25},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestJitter: a share of 0 is none, and a missing one is the default.
func TestJitter(t *testing.T) {
	none, half := 0.0, 0.5
	for _, c := range []struct {
		share *float64
		want  float64
	}{{nil, 0}, {&none, async.Off}, {&half, 0.5}} {
		if got := jitter(c.share); got != c.want {
			t.Errorf("got %v, want %v", got, c.want)
		}
	}
}
