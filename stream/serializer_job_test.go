package stream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

type observerFunc func(Event)

func (o observerFunc) Observe(e Event) { o(e) }

// TestStopWithRecordsThatCannotBeKept: a stop always ends with a checkpoint. It waits for records
// that a checkpoint cannot hold. If it must not wait, the job does not start.
func TestStopWithRecordsThatCannotBeKept(t *testing.T) {
	for name, c := range map[string]struct {
		cfg     async.Config
		ordered bool
		refused bool
	}{
		"by default":        {cfg: async.Config{}},
		"ordered":           {ordered: true},
		"drain":             {cfg: async.Config{Barrier: async.Drain}},
		"snapshot":          {cfg: async.Config{Barrier: async.Snapshot}, refused: true},
		"ordered, snapshot": {cfg: async.Config{Barrier: async.Snapshot}, ordered: true, refused: true},
		"drain limit":       {cfg: async.Config{Barrier: async.Drain, DrainLimit: time.Millisecond}, refused: true},
		"no timeout":        {cfg: async.Config{Timeout: async.Off}, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fn := async.Func(func(_ context.Context, v unexported) (int, error) { time.Sleep(time.Second); return v.secret, nil }, 0)
				j := New("stop", Config{})
				wait := UnorderedWait[unexported, int]
				if c.ordered {
					wait = OrderedWait[unexported, int]
				}
				c.cfg.Capacity = 10
				out := Collect(wait(From(j, FromSlice(make([]unexported, 3000))), fn, c.cfg))
				r := j.Start(t.Context())
				time.Sleep(1500 * time.Millisecond)
				r.Stop()
				err := r.Wait()
				if c.refused {
					if err == nil || !strings.Contains(err.Error(), "cannot start") || !strings.Contains(err.Error(), "field secret of stream.unexported is not exported; set stream.WithSerializer, or the drain policy") {
						t.Errorf("it was not refused: %v", err)
					}
					return
				}
				if err != ErrStopped || len(out.Results()) != 20 {
					t.Errorf("%d results, %v", len(out.Results()), err)
				}
			})
		})
	}
}

// textSerializer is a user's own.
type textSerializer struct{}

func (textSerializer) Append(dst []byte, v int) ([]byte, error) {
	return fmt.Appendf(dst, "<%d>", v), nil
}
func (textSerializer) Decode(data []byte) (v int, err error) {
	_, err = fmt.Sscanf(string(data), "<%d>", &v)
	return v, err
}

// TestSerializersChange between two lives of a job: what the first life kept is read as it was
// written, or refused.
func TestSerializersChange(t *testing.T) {
	for _, c := range []struct {
		before, after []AsyncOption
		want          string
	}{
		{nil, nil, ""},
		{nil, []AsyncOption{WithSerializer[int](textSerializer{})}, ""},
		{[]AsyncOption{WithSerializer[int](textSerializer{})}, []AsyncOption{WithSerializer[int](textSerializer{})}, ""},
		{[]AsyncOption{WithSerializer[int](textSerializer{})}, nil, "its records were written by a serializer of the job's own; set the same one again"},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDisk()
			run := func(cfg Config, opts []AsyncOption, took time.Duration) *Run {
				cfg.Checkpoint = CheckpointConfig{Interval: 10 * time.Millisecond, Store: d}
				j := New("change", cfg)
				fn := async.Func(func(_ context.Context, v int) (int, error) { time.Sleep(took); return 2 * v, nil }, 0)
				To(UnorderedWait(From(j, FromSlice(numbers(100))), fn, async.Config{Capacity: 10, Timeout: time.Hour}, opts...), connector.Sink[int](diskSink{d}))
				return j.Start(t.Context())
			}
			first := run(Config{}, c.before, time.Minute)
			time.Sleep(time.Second)
			first.Stop()
			if err := first.Wait(); err != ErrStopped {
				t.Fatal(err)
			}
			snap, err := d.Newest(t.Context())
			if err != nil || !snap.HoldsRecords() {
				t.Fatal(snap, err)
			}
			err = run(Config{Resume: snap, LastID: snap.ID}, c.after, time.Millisecond).Wait()
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("it ended with %v", err)
				}
				return
			}
			got := d.values()
			slices.Sort(got)
			if err != nil || !isDoubled(got, 100) {
				t.Errorf("%d results, %v", len(got), err)
			}
		})
	}
}
