package kafka

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// begin starts a job from a topic to files, or resumes it, as a supervisor would.
func (b *broker) begin(ctx context.Context, state, out string, s *Source[[]byte], interval time.Duration) (*stream.Run, *checkpoint.Store) {
	b.t.Helper()
	store, err := checkpoint.Open(state, checkpoint.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	begun, err := store.Resume("j")
	if err != nil {
		b.t.Fatal(err)
	}
	j := stream.New("j", stream.Config{
		Parallelism: 2, RunID: begun.ID, Resume: begun.Restore, Previous: begun.Previous, Attempt: begun.Attempt, LastID: begun.LastID,
		Checkpoint: stream.CheckpointConfig{Interval: interval, Store: store},
	})
	answers := stream.OrderedWait(stream.From(j, s), async.Func(answer, 64), ordered)
	stream.To(stream.Map(answers, func(v []byte) (json.RawMessage, error) { return v, nil }), file.NewSink(file.SinkConfig[json.RawMessage]{Encode: file.RawLine, Dir: out}))
	return j.Start(ctx), store
}

// results counts the lines of a folder.
func results(t *testing.T, dir string) (n int) {
	t.Helper()
	parts, err := filepath.Glob(filepath.Join(dir, "part-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		n += strings.Count(string(text), "\n")
	}
	return n
}

// The latest offsets are those of the moment in which a job began, whatever ends it before its
// first checkpoint.
func TestSourceBeginsOnce(t *testing.T) {
	for _, c := range []struct {
		name     string
		interval time.Duration
		start    Start
		kills    int
		grows    bool // a partition appears between two processes
		want     int
	}{
		{"killed", time.Hour, Latest, 1, false, 2 * (50 + 50)},
		{"killed three times", time.Hour, Latest, 3, false, 2 * (3*50 + 50)},
		{"a time", time.Hour, From(time.UnixMilli(90)), 1, false, 2 * (10 + 50 + 50)},
		{"a partition appears", time.Hour, Latest, 1, true, 2*(50+50) + 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, 2, "in")
				b.fill("in", 2, 0, 100) // before the job
				state, out := t.TempDir(), t.TempDir()
				at, partitions := 100, int32(2)
				more := func() {
					b.fill("in", partitions, at, at+50)
					at += 50
				}
				source := func() *Source[[]byte] { return b.source(Topics{Names: []string{"in"}, Start: c.start}) }
				for range c.kills {
					ctx, kill := context.WithCancel(t.Context())
					run, store := b.begin(ctx, state, out, source(), c.interval)
					time.Sleep(time.Second)
					more()
					time.Sleep(time.Second)
					if p := run.Progress(); p.Read == 0 || p.CheckpointsCompleted > 0 {
						t.Errorf("%d records are read and %d checkpoints completed", p.Read, p.CheckpointsCompleted)
					}
					kill()
					run.Wait()
					store.Close()
				}
				if c.grows {
					cl := b.client()
					if _, err := kadm.NewClient(cl).CreatePartitions(t.Context(), 1, "in"); err != nil {
						t.Fatal(err)
					}
					cl.Close()
					partitions = 3
				}
				more() // while nothing runs
				run, store := b.begin(t.Context(), state, out, source(), c.interval)
				time.Sleep(10 * time.Second)
				run.Stop()
				if err := run.Wait(); err != stream.ErrStopped {
					t.Error(err)
				}
				store.Close()
				if n := results(t, out); n != c.want {
					t.Errorf("%d results of the %d records since the job began", n, c.want)
				}
			})
		})
	}
}
