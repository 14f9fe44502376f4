package eventtime

import (
	"math"
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
		{mtime.MinTimestamp, async.NoTime}, {0, 0}, {-1, -1}, {mtime.MinTimestamp + 1, async.EventTime(mtime.MinTimestamp + 1)},
		{mtime.FromTime(now), async.EventTime(now.UnixMilli())}, {mtime.MaxTimestamp, async.EventTime(mtime.MaxTimestamp)},
	} {
		if got := FromBeam(c.beam); got != c.own {
			t.Errorf("%v comes as %d, want %d", c.beam, got, c.own)
		}
		if got := ToBeam(c.own); got != c.beam {
			t.Errorf("%d goes as %v, want %v", c.own, got, c.beam)
		}
	}
	// What Beam cannot count.
	for own, want := range map[async.EventTime]beam.EventTime{math.MaxInt64: mtime.MaxTimestamp, math.MinInt64 + 1: mtime.MinTimestamp} {
		if got := ToBeam(own); got != want {
			t.Errorf("%d goes as %v, want %v", own, got, want)
		}
	}
}
