package async

import (
	"testing"
	"time"
)

// Event times are in the years 1 to 9999. A time that cannot be an event time becomes BadTime, and
// not some other time.
func TestTimesInRange(t *testing.T) {
	date := func(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }
	for _, c := range []struct {
		at   time.Time
		want EventTime
	}{
		{time.Time{}, NoTime}, {time.UnixMilli(0), 0}, {time.UnixMilli(-1), -1}, {date(10000).Add(-1), MaxTime}, {date(1).Add(time.Millisecond), MinTime + 1},
		{date(10000), BadTime}, {date(0), BadTime}, {date(1 << 40), BadTime}, {date(-1 << 40), BadTime}, {time.UnixMilli(1_700_000_000_000_000), BadTime},
		{time.Unix(1<<63-1, 0), BadTime}, {time.Unix(-1<<63, 0), BadTime},
	} {
		got := At(c.at)
		if got != c.want {
			t.Errorf("%v is %d, want %d", c.at, got, c.want)
		}
		if got.Valid() && !got.Time().Equal(c.at.Truncate(time.Millisecond)) {
			t.Errorf("%v comes back as %v", c.at, got.Time())
		}
	}
	for _, no := range []EventTime{NoTime, BadTime, EndOfTime, MinTime - 1, MaxTime + 1} {
		if no.Valid() {
			t.Errorf("%d is valid", no)
		}
	}
	if !MinTime.Valid() || !MaxTime.Valid() || MinTime.Time().UTC().Year() != 1 || MaxTime.Time().UTC().Year() != 9999 {
		t.Errorf("from %v to %v", MinTime.Time().UTC(), MaxTime.Time().UTC())
	}
}
