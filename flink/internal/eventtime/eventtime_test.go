package eventtime

import (
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"

	"github.com/tensorferry/tensorferry/async"
)

func TestBothWays(t *testing.T) {
	now := time.UnixMilli(1700000000123)
	for _, c := range []struct {
		beam beam.EventTime
		own  async.EventTime
	}{
		{mtime.MinTimestamp, async.NoTime}, {0, 0}, {-1, -1}, {mtime.FromTime(now), async.EventTime(now.UnixMilli())},
		{beam.EventTime(async.MinTime), async.MinTime}, {beam.EventTime(async.MaxTime), async.MaxTime},
	} {
		if got := FromBeam(c.beam); got != c.own {
			t.Errorf("%v comes as %d, want %d", c.beam, got, c.own)
		}
		if got := ToBeam(c.own); got != c.beam {
			t.Errorf("%d goes as %v, want %v", c.own, got, c.beam)
		}
	}
	// What is out of range is none, on the way in and on the way out.
	for _, own := range []async.EventTime{async.MinTime - 1, async.MaxTime + 1, 1_700_000_000_000_000, async.BadTime, async.EndOfTime} {
		if got := ToBeam(own); got != mtime.MinTimestamp {
			t.Errorf("%d goes as %v", own, got)
		}
		if got := FromBeam(beam.EventTime(own)); got != async.NoTime {
			t.Errorf("%d comes as %v", own, got)
		}
		if got := Read(t.Context(), own); got != mtime.MinTimestamp {
			t.Errorf("%d is read as %v", own, got)
		}
	}
	if got := FromBeam(mtime.MaxTimestamp); got != async.NoTime {
		t.Errorf("the end of time comes as %v", got)
	}
}
