package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// growing is a source whose beginning depends on when it is asked. Each of its lanes gets a value a
// millisecond, up to 400, and is read from its present end on. Of lanes that appear later it
// is the same, if it is rebalancing.
type growing struct {
	began time.Time
	lanes int // at the beginning
	later time.Duration
	opens atomic.Int64
}

func (g *growing) end() int64 { return min(400, time.Since(g.began).Milliseconds()) }

func (g *growing) split(lane int) connector.Split {
	return connector.Split{Data: []byte{byte(lane)}, Start: g.end()}
}

func (g *growing) Splits(context.Context) (all []connector.Split, err error) {
	for lane := range g.lanes {
		all = append(all, g.split(lane))
	}
	return all, nil
}

func (g *growing) Verify(context.Context, []connector.Split, []int64) error { return nil }

func (g *growing) Open(_ context.Context, s connector.Split, at int64) (connector.Reader[int], error) {
	g.opens.Add(1)
	return &growingReader{g, int(s.Data[0]) * 1000, at}, nil
}

type growingReader struct {
	g     *growing
	first int
	at    int64
}

func (r *growingReader) Read(ctx context.Context, dst []Record[int], max int) ([]Record[int], int64, error) {
	for r.at == r.g.end() && r.at < 400 {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return dst, r.at, ctx.Err()
		}
	}
	for ; max > 0 && r.at < r.g.end(); max-- {
		dst = append(dst, Record[int]{Value: r.first + int(r.at), Time: async.NoTime, Position: r.at})
		r.at++
	}
	if r.at == 400 {
		return dst, r.at, io.EOF
	}
	return dst, r.at, nil
}

func (r *growingReader) Close() error { return nil }

// sprouting is growing with one more lane after some time.
type sprouting struct{ growing }

func (s *sprouting) Assign(_ context.Context, splits []connector.Split, next []int64) ([]connector.Split, []int64, error) {
	if time.Since(s.began) >= s.later && len(splits) == s.lanes {
		one := s.split(s.lanes)
		splits, next = append(splits, one), append(next, one.Start)
	}
	return splits, next, nil
}

func (s *sprouting) Changed(ctx context.Context) error {
	if d := s.later - time.Since(s.began); d > 0 {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// outOf is what lanes must come to: the values of each from some number on.
func outOf(from ...int) (all []int) {
	for lane, first := range from {
		for i := first; i < 400; i++ {
			all = append(all, 2*(1000*lane+i))
		}
	}
	return all
}

// A source may begin elsewhere whenever it is asked. So its beginning is kept before anything is
// read (A46). Whatever ends the first process, a job that is resumed or restarted has every record
// since its beginning.
func TestBeginningIsKept(t *testing.T) {
	for _, c := range []struct {
		name        string
		interval    time.Duration
		rebalancing bool
		kill        []time.Duration // of the processes but the last
		fail        time.Duration   // when a call fails, once
		want        []int
		ids         []int64 // of the checkpoints when the first process was killed
	}{
		{name: "killed before the first checkpoint", interval: time.Hour, kill: []time.Duration{100}, want: outOf(50, 50), ids: []int64{0}},
		{name: "without an interval", kill: []time.Duration{100}, want: outOf(50, 50), ids: []int64{0}},
		{name: "killed again and again", kill: []time.Duration{60, 180, 280, 385}, want: outOf(50, 50), ids: []int64{0}},
		{name: "killed after a checkpoint", interval: 20 * time.Millisecond, kill: []time.Duration{100, 200}, want: outOf(50, 50), ids: []int64{0, 1, 2}},
		{name: "restarted", fail: 90, want: outOf(50, 50)},
		{name: "restarted, and killed", fail: 90, kill: []time.Duration{150}, want: outOf(50, 50), ids: []int64{0}},
		{name: "a lane that appears", rebalancing: true, kill: []time.Duration{120, 250}, want: outOf(50, 50, 100), ids: []int64{0, 1, 2}},
		{name: "a lane that appears, restarted", rebalancing: true, fail: 120, kill: []time.Duration{150}, want: outOf(50, 50, 100), ids: []int64{0, 1, 2}},
		{name: "a lane that appears in a later process", rebalancing: true, kill: []time.Duration{90, 250}, want: outOf(50, 50, 190), ids: []int64{0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk()
				g := &sprouting{growing{began: time.Now(), lanes: 2, later: 100 * time.Millisecond}}
				failed := c.fail == 0
				call := func(_ context.Context, v int) (int, error) {
					if !failed && time.Since(g.began) > c.fail*time.Millisecond {
						failed = true
						return 0, errors.New("just once")
					}
					return 2 * v, nil
				}
				start := func(ctx context.Context, number int) *Run {
					snap, err := d.Newest(ctx)
					if err != nil && !errors.Is(err, checkpoint.ErrNoCheckpoint) {
						t.Fatal(err)
					}
					cfg := Config{
						Parallelism: 1 + number%3, Resume: snap, RunID: "r",
						Checkpoint: CheckpointConfig{Interval: c.interval, Store: d},
						Restart:    restart.Config{Strategy: restart.FixedDelay, Attempts: 5, Delay: 10 * time.Millisecond},
					}
					for id := range d.snaps {
						cfg.LastID = max(cfg.LastID, id)
					}
					j := New("j", cfg)
					var src connector.Source[int] = &g.growing
					if c.rebalancing {
						src = g
					}
					To(OrderedWait(From(j, src), async.Func(call, 1), async.Config{Retry: async.Retry{Max: async.Off}}), diskSink{d})
					return j.Start(ctx)
				}
				time.Sleep(50 * time.Millisecond)
				for i, at := range c.kill {
					ctx, kill := context.WithCancel(t.Context())
					r := start(ctx, i)
					time.Sleep(time.Until(g.began.Add(at * time.Millisecond)))
					kill()
					r.Wait()
					if ids := slices.Sorted(maps.Keys(d.snaps)); i == 0 && !slices.Equal(ids, c.ids) {
						t.Errorf("the checkpoints of the first process are %v; want %v", ids, c.ids)
					}
					time.Sleep(100 * time.Millisecond)
				}
				r := start(t.Context(), len(c.kill))
				if err := r.Wait(); err != nil {
					t.Fatal(err)
				}
				got := d.values()
				if slices.Sort(got); !slices.Equal(got, c.want) {
					t.Errorf("%d results, %v; want %d", len(got), got, len(c.want))
				}
				p := r.Progress()
				if p.Committed != int64(len(c.want)) || p.Read != p.Completed || len(d.pending) > 0 {
					t.Errorf("%d read, %d completed, %d committed, %d pending results left", p.Read, p.Completed, p.Committed, len(d.pending))
				}
			})
		})
	}
}

// Nothing is read before the beginning is kept. A failure of the store is tolerated as at any
// checkpoint.
func TestNothingIsReadBeforeTheBeginningIsKept(t *testing.T) {
	full := errors.New("not done: the disk is full")
	for _, c := range []struct {
		name                       string
		fails, tolerable, attempts int
		restarts, failed           int
		done                       bool // although the store says that it failed
		ends                       error
	}{
		{name: "for ever", fails: 1e6, ends: full, failed: 1},
		{name: "tolerated, for ever", fails: 1e6, tolerable: 2, ends: full, failed: 3},
		{name: "tolerated", fails: 2, tolerable: 2, failed: 2},
		{name: "restarted", fails: 2, attempts: 5, restarts: 2, failed: 2},
		{name: "restarted, and written after all", fails: 2, attempts: 5, restarts: 2, failed: 2, done: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk()
				g := &growing{began: time.Now(), lanes: 2}
				left := c.fails
				at := "write"
				if c.done {
					at = "written"
				}
				d.fault = func(when string) error {
					if when != at || left == 0 {
						return nil
					}
					left--
					if g.opens.Load() > 0 {
						t.Error("read before the beginning was kept")
					}
					return full
				}
				cfg := Config{Checkpoint: CheckpointConfig{Store: d, TolerableFailures: c.tolerable}}
				if c.attempts > 0 {
					cfg.Restart = restart.Config{Strategy: restart.FixedDelay, Attempts: c.attempts}
				}
				j := New("j", cfg)
				To(OrderedWait(From(j, g), async.Func(func(_ context.Context, v int) (int, error) { return 2 * v, nil }, 1), async.Config{}), diskSink{d})
				r := j.Start(t.Context())
				err := r.Wait()
				if (err == nil) != (c.ends == nil) || c.ends != nil && g.opens.Load() > 0 {
					t.Fatalf("it ended with %v after %d reads; want %v", err, g.opens.Load(), c.ends)
				}
				p := r.Progress()
				if p.Restarts != c.restarts || p.CheckpointsFailed != int64(c.failed) || p.LastError == nil {
					t.Errorf("%d restarts, %d failed checkpoints, %v; want %d and %d", p.Restarts, p.CheckpointsFailed, p.LastError, c.restarts, c.failed)
				}
				if want := outOf(0, 0); err == nil && !sameSet(d.values(), want) {
					t.Errorf("%d results, want %d", len(d.values()), len(want))
				}
			})
		})
	}
}

func sameSet(got, want []int) bool {
	slices.Sort(got)
	return slices.Equal(got, want)
}

// The checkpoint of the beginning publishes nothing. So observers are not notified of it, and it
// does not count as completed.
func TestBeginningIsNoCompletedCheckpoint(t *testing.T) {
	d := newDisk()
	var told []string
	j := New("j", Config{Checkpoint: CheckpointConfig{Store: d}, Observer: &watched{on: func(e Event) { told = append(told, fmt.Sprintf("%T", e)) }}})
	To(From(j, FromSlice(numbers(10))), diskSink{d})
	r := j.Start(t.Context())
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := "[stream.Started stream.CheckpointCompleted stream.Ended]"; fmt.Sprint(told) != want {
		t.Errorf("the observer was told %v; want %s", told, want)
	}
	if p := r.Progress(); p.CheckpointsCompleted != 1 || p.LastCheckpoint != 1 {
		t.Errorf("%d completed, the last one %d", p.CheckpointsCompleted, p.LastCheckpoint)
	}
	first, err := checkpoint.Decode(d.snaps[0])
	if err != nil || first.Finished || first.Job != "j" || first.Run != r.ID() {
		t.Errorf("%+v, %v", first, err)
	}
	at, err := first.Positions("")
	if err != nil || len(at) != 1 || at[0].Next != 0 {
		t.Errorf("it begins at %v, %v", at, err)
	}
}
