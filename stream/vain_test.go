package stream

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// TestRestartsInVain: a job that fails in three restarts in a row, at whichever record, with no
// checkpoint completed between them, ends. Failures of other systems that are away or full do not
// count.
func TestRestartsInVain(t *testing.T) {
	// A record takes 5 ms. An attempt that fails again at its record ends before the next
	// checkpoint.
	often := CheckpointConfig{Interval: 93 * time.Millisecond}
	ever := restart.Config{Strategy: restart.FixedDelay, Attempts: 100, Delay: time.Millisecond}
	in := func(class async.Class) func(int) error {
		return func(int) error { return simFailure{async.Verdict{Class: class}} }
	}
	for name, c := range map[string]struct {
		every    CheckpointConfig
		failures map[int]int // by record
		as       func(call int) error
		restarts int
		ends     bool
	}{
		"the same record":                       {often, map[int]int{100: 9}, in(async.Backend), 3, true},
		"different records":                     {CheckpointConfig{}, map[int]int{20: 1, 21: 2, 22: 9}, in(async.Backend), 3, true},
		"timeouts":                              {CheckpointConfig{}, map[int]int{20: 1, 21: 2, 22: 9}, in(async.Timeout), 3, true},
		"a failure without a class":             {CheckpointConfig{}, map[int]int{20: 9}, func(int) error { return errBroken }, 3, true},
		"with checkpoints between":              {often, map[int]int{40: 3, 80: 3, 120: 3}, in(async.Backend), 9, false},
		"a server that is away":                 {CheckpointConfig{}, map[int]int{20: 50}, in(async.Transport), 50, false},
		"a server that is full":                 {CheckpointConfig{}, map[int]int{20: 50}, in(async.Overload), 50, false},
		"a server that comes back, not for all": {CheckpointConfig{}, map[int]int{20: 9}, func(call int) error { return in([]async.Class{async.Backend, async.Transport}[call%2])(call) }, 6, true},
		"a bad record":                          {often, map[int]int{20: 9}, in(async.BadRecord), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failed := 0
				fn := async.Func(func(ctx context.Context, v int) (int, error) {
					time.Sleep(5 * time.Millisecond)
					if c.failures[v] > 0 {
						c.failures[v]--
						failed++
						return 0, c.as(failed - 1)
					}
					return 2 * v, nil
				}, 1)
				j := New("vain", Config{Checkpoint: c.every, Restart: ever})
				out := Collect(OrderedWait(From(j, FromSlice(numbers(200))), fn, async.Config{Capacity: 1, Retry: async.Retry{Max: async.Off}}))
				r := j.Start(t.Context())
				err := r.Wait()
				if p := r.Progress(); p.Restarts != c.restarts || (err != nil) != c.ends || c.ends && c.restarts > 0 != errors.Is(err, ErrNoProgress) {
					t.Errorf("%d restarts, want %d: %v", p.Restarts, c.restarts, err)
				}
				if !c.ends && !isDoubled(out.Results(), 200) {
					t.Errorf("the output is %v", out.Results())
				}
			})
		})
	}
}

// TestManyBadRecordsInFlight: which of them fails first is chance.
func TestManyBadRecordsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(1, 2))
		fn := async.Func(func(_ context.Context, d time.Duration) (int, error) {
			time.Sleep(d)
			return 0, errBroken
		}, 0)
		j := New("many", Config{Checkpoint: CheckpointConfig{Interval: time.Second}})
		shuffled := Map(From(j, FromSlice(make([]int, 50))), func(int) (time.Duration, error) {
			return time.Duration(1+rnd.IntN(1000)) * time.Microsecond, nil
		})
		Collect(UnorderedWait(shuffled, fn, async.Config{Retry: async.Retry{Max: async.Off}}))
		r := j.Start(t.Context())
		if err := r.Wait(); !errors.Is(err, ErrNoProgress) || r.Progress().Restarts != 3 {
			t.Errorf("after %d restarts: %v", r.Progress().Restarts, err)
		}
	})
}

// TestSinksThatStayBroken: a sink that fails in every restart ends the job, whatever the strategy
// allows, and what is wrong with each is said at once.
func TestSinksThatStayBroken(t *testing.T) {
	for _, at := range []string{"prepare", "write", "commit"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				results, letters := newDisk(), newDisk()
				full := func(name string) func(string) error {
					return func(what string) error {
						if strings.HasPrefix(what, at) && time.Now().After(epoch.Add(20*time.Millisecond)) {
							return errors.New("not done: " + name + " is full")
						}
						return nil
					}
				}
				epoch = time.Now()
				results.fault, letters.fault = full("results"), full("letters")
				if at == "commit" {
					results.fault, letters.fault = func(string) error { return nil }, func(string) error { return nil }
				}
				j := New("full", Config{Checkpoint: CheckpointConfig{Interval: 10 * time.Millisecond, Store: results}})
				fn := async.Func(func(_ context.Context, v int) (int, error) {
					time.Sleep(time.Millisecond)
					if v%2 == 1 {
						return 0, errBroken
					}
					return v, nil
				}, 1)
				done, failed := AsyncWithDeadLetters(From(j, FromSlice(numbers(200))), fn, async.Config{Retry: async.Retry{Max: async.Off}})
				var a, b connector.Sink[int] = diskSink{results}, diskSink{letters}
				if at == "commit" {
					a, b = unpublished{a, "results"}, unpublished{b, "letters"}
				}
				To(done, a, Name("results"))
				To(Map(failed, func(f async.Failed[int]) (int, error) { return f.Record.Value, nil }), b, Name("letters"))
				r := j.Start(t.Context())
				err := r.Wait()
				if !errors.Is(err, ErrNoProgress) || r.Progress().Restarts != 3 || !strings.Contains(err.Error(), "results is full") {
					t.Fatalf("after %d restarts: %v", r.Progress().Restarts, err)
				}
				if at == "commit" && !strings.Contains(err.Error(), "letters is full") {
					t.Errorf("the other sink is not named: %v", err)
				}
			})
		})
	}
}

var epoch time.Time

// unpublished is a sink whose results cannot be published.
type unpublished struct {
	connector.Sink[int]
	name string
}

func (s unpublished) Committer(ctx context.Context) (connector.Committer, error) {
	c, err := s.Sink.Committer(ctx)
	return unpublishedCommitter{c, s.name}, err
}

type unpublishedCommitter struct {
	connector.Committer
	name string
}

func (c unpublishedCommitter) Commit(context.Context, []byte) error {
	return errors.New(c.name + " is full")
}

// moving is an rebalancing source that says of the same splits, at each attempt, that they begin
// where they are read from; with anew, that they are others.
type moving struct {
	connector.Source[int]
	anew  bool
	times byte
}

func (m *moving) Assign(_ context.Context, splits []connector.Split, next []int64) ([]connector.Split, []int64, error) {
	m.times++
	now := make([]connector.Split, len(splits))
	for i, s := range splits {
		now[i] = connector.Split{Data: s.Data, Start: s.Start + int64(m.times)}
		if m.anew {
			// JSON all the same
			now[i].Data = append(now[i].Data[:len(now[i].Data):len(now[i].Data)], ' ')
		}
	}
	return now, next, nil
}

func (m *moving) Changed(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestPositionsAreNoProgress: what says where an attempt begins to read is kept where that has
// changed, and nowhere else, and is no completed checkpoint.
func TestPositionsAreNoProgress(t *testing.T) {
	for _, anew := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			writes := 0
			d := newDisk()
			d.fault = func(what string) error {
				if what == "written" {
					writes++
				}
				return nil
			}
			j := New("moving", Config{Checkpoint: CheckpointConfig{Interval: time.Second, Store: d}})
			fn := async.Func(func(context.Context, int) (int, error) { return 0, errBroken }, 1)
			src := &moving{Source: readAnywhere{}, anew: anew}
			To(OrderedWait(From[int](j, src), fn, async.Config{Retry: async.Retry{Max: async.Off}}), diskSink{d})
			r := j.Start(t.Context())
			err := r.Wait()
			want := 1
			if anew {
				want = 4
			}
			if p := r.Progress(); !errors.Is(err, ErrNoProgress) || p.Restarts != 3 || p.CheckpointsCompleted != 0 || writes != want {
				t.Errorf("anew %v: %d restarts, %d checkpoints completed, %d kept: %v", anew, p.Restarts, p.CheckpointsCompleted, writes, err)
			}
		})
	}
}

// readAnywhere is a source of one split that has records wherever it is read from.
type readAnywhere struct{ endings }

func (readAnywhere) Splits(context.Context) ([]connector.Split, error) {
	return []connector.Split{{Data: []byte("1")}}, nil
}

// TestLockThatIsGone: if the lock of a checkpoint folder is removed, another process can get in, so
// the job ends at once.
func TestLockThatIsGone(t *testing.T) {
	for name, remove := range map[string]func(dir string) error{
		"removed":                          func(dir string) error { return os.Remove(filepath.Join(dir, "lock")) },
		"replaced":                         func(dir string) error { return os.Rename(filepath.Join(dir, "other"), filepath.Join(dir, "lock")) },
		"the folder, too":                  os.RemoveAll,
		"removed, with failures tolerated": func(dir string) error { return os.Remove(filepath.Join(dir, "lock")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "kept")
			store, err := checkpoint.Open(dir, checkpoint.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			run, err := store.Start("locked")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "other"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			var removed error
			w := &watched{on: func(e Event) {
				if c, ok := e.(CheckpointCompleted); ok && c.ID == 2 {
					removed = remove(dir)
				}
			}}
			cfg := Config{Checkpoint: CheckpointConfig{Interval: time.Millisecond, Store: store}, RunID: run.ID, Observer: w}
			if strings.HasSuffix(name, "tolerated") {
				cfg.Checkpoint.TolerableFailures = 1000
			}
			j := New("locked", cfg)
			Collect(From[int](j, steady{}))
			r := j.Start(t.Context())
			err = r.Wait()
			if removed != nil || err == nil || r.Progress().Restarts != 0 || !errors.Is(err, checkpoint.ErrLockLost) || !strings.Contains(err.Error(), dir) {
				t.Errorf("after %d restarts: %v (%v)", r.Progress().Restarts, err, removed)
			}
		})
	}
}
