package idle

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// thing is something that is used by touching it.
type thing struct {
	index  int
	opened time.Time
	used   atomic.Int64
	busy   atomic.Bool
	closed atomic.Int32
	err    error
	slow   time.Duration // how long Close takes
}

func (t *thing) touch() { t.used.Store(time.Now().UnixNano()) }

func (t *thing) Close() error {
	time.Sleep(t.slow)
	t.closed.Add(1)
	return t.err
}

func (t *thing) Abandoned(since time.Time) bool {
	return !t.busy.Load() && time.Unix(0, t.used.Load()).Before(since)
}

func open(_ context.Context, index int) (*thing, error) {
	t := &thing{index: index, opened: time.Now()}
	t.touch()
	return t, nil
}

func take(t *testing.T, p *Pool[*thing], key string) *thing {
	t.Helper()
	x, err := p.Take(t.Context(), key, open)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// wantClosed checks how often things were closed.
func wantClosed(t *testing.T, n int32, all ...*thing) {
	t.Helper()
	synctest.Wait()
	for i, x := range all {
		if got := x.closed.Load(); got != n {
			t.Errorf("thing %d (%d of its key) was closed %d times, want %d", i, x.index, got, n)
		}
	}
}

// sweeping reports whether the pool's goroutine runs.
func (p *Pool[T]) sweeping() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sweeps
}

// left counts the keys with free things, and the lent things.
func (p *Pool[T]) left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free) + len(p.lent)
}

func TestReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool[*thing]
		a := take(t, &p, "k")
		b := take(t, &p, "k")
		other := take(t, &p, "other")
		if a == b || a.index != 0 || b.index != 1 || other.index != 0 {
			t.Errorf("indexes %d, %d and %d", a.index, b.index, other.index)
		}
		p.Give(a)
		if again := take(t, &p, "k"); again != a {
			t.Error("what was given back is not taken again")
		}
		if third := take(t, &p, "k"); third == a || third == b || third.index != 2 {
			t.Errorf("a third taker got %+v", third)
		}
		wantClosed(t, 0, a, b, other)
		time.Sleep(2 * Limit) // everything is abandoned
		wantClosed(t, 1, a, b, other)
	})
}

func TestIdleIsClosedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool[*thing]
		a := take(t, &p, "k")
		p.Give(a)
		time.Sleep(Limit - time.Nanosecond)
		wantClosed(t, 0, a)
		time.Sleep(Limit/10 + time.Nanosecond)
		wantClosed(t, 1, a)
		if p.sweeping() {
			t.Error("the sweeper goes on with nothing to sweep")
		}
		time.Sleep(10 * Limit)
		wantClosed(t, 1, a)

		b := take(t, &p, "k")
		if b == a || b.index != 0 || !p.sweeping() {
			t.Errorf("after all was closed: index %d, swept: %v", b.index, p.sweeping())
		}
		p.Give(b)
		time.Sleep(2 * Limit)
		wantClosed(t, 1, a, b)
	})
}

// A thing that others of its key outlive is closed all the same.
func TestTheLeastUsedIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool[*thing]
		a, b := take(t, &p, "k"), take(t, &p, "k")
		p.Give(a)
		p.Give(b)
		for range 30 {
			x := take(t, &p, "k") // always the newest
			x.touch()
			p.Give(x)
			time.Sleep(Limit / 10)
		}
		wantClosed(t, 1, a)
		wantClosed(t, 0, b)
		time.Sleep(2 * Limit)
		wantClosed(t, 1, a, b)
	})
}

func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool[*thing]
		gone, used, busy := take(t, &p, "k"), take(t, &p, "k"), take(t, &p, "k")
		busy.busy.Store(true)
		for range 25 {
			time.Sleep(Limit / 10)
			used.touch()
		}
		wantClosed(t, 1, gone)
		wantClosed(t, 0, used, busy)

		p.Give(gone) // its bundle comes back after all
		p.Drop(gone)
		wantClosed(t, 1, gone)
		if x := take(t, &p, "k"); x == gone {
			t.Error("what is closed is lent")
		} else {
			p.Drop(x)
		}
		p.Drop(used)
		p.Drop(busy)
		wantClosed(t, 1, gone, used, busy)
		time.Sleep(Limit)
		if p.sweeping() {
			t.Error("the sweeper goes on with nothing to sweep")
		}
	})
}

// What has just been lent is not abandoned, however long ago it was used: neither what was nearly
// too old, nor what took long to open.
func TestLentAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool[*thing]
		a := take(t, &p, "k")
		p.Give(a)
		time.Sleep(Limit - 1)
		if take(t, &p, "k") != a {
			t.Fatal("it is not there any more")
		}
		if p.sweepOnce(time.Now().Add(1 - Limit)) {
			t.Error("nothing is left")
		}
		wantClosed(t, 0, a)
		p.Drop(a)

		slow, err := p.Take(t.Context(), "k", func(ctx context.Context, index int) (*thing, error) {
			x, err := open(ctx, index)
			time.Sleep(3 * Limit)
			return x, err
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(Limit - 1)
		wantClosed(t, 0, slow)
		time.Sleep(Limit)
		wantClosed(t, 1, a, slow)
	})
}

func TestOpenError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool[*thing]
		broken := errors.New("broken")
		if _, err := p.Take(t.Context(), "k", func(context.Context, int) (*thing, error) { return nil, broken }); !errors.Is(err, broken) {
			t.Error(err)
		}
		if p.sweeping() || p.left() > 0 {
			t.Error("something is left of what could not be opened")
		}
		cause := errors.New("the bundle is over")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		_, err := p.Take(ctx, "k", func(ctx context.Context, _ int) (*thing, error) { return nil, context.Cause(ctx) })
		if !errors.Is(err, cause) {
			t.Errorf("open has another context: %v", err)
		}
		x := take(t, &p, "k")
		p.Drop(x)
		wantClosed(t, 1, x)
		time.Sleep(Limit)
	})
}

// Drop, Give and a sweep of the same thing at the same time close it once.
func TestDropRacesWithSweep(t *testing.T) {
	for _, slow := range []time.Duration{0, time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			var p Pool[*thing]
			for range 200 {
				x := take(t, &p, "k")
				x.slow = slow
				time.Sleep(Limit / 20)
				now := time.Now().Add(1)
				var all sync.WaitGroup
				all.Go(func() { p.Drop(x) })
				all.Go(func() { p.Drop(x) })
				all.Go(func() { p.sweepOnce(now) })
				all.Wait()
				wantClosed(t, 1, x)
			}
			time.Sleep(2 * Limit)
			if p.sweeping() {
				t.Error("the sweeper goes on with nothing to sweep")
			}
		})
	}
}

// Many takers at once never share.
func TestManyTakers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool[*thing]
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for i := range 100 {
					x, err := p.Take(t.Context(), "k", open)
					if err != nil {
						t.Error(err)
						return
					}
					if !x.busy.CompareAndSwap(false, true) {
						t.Error("two have the same thing")
					}
					if n := x.closed.Load(); n != 0 {
						t.Error("a thing is lent that is closed")
					}
					time.Sleep(time.Duration(i) * time.Millisecond)
					x.touch()
					x.busy.Store(false)
					if i%7 == 0 {
						p.Drop(x)
					} else {
						p.Give(x)
					}
				}
			})
		}
		all.Wait()
		time.Sleep(2 * Limit)
		if p.left() > 0 || p.sweeping() {
			t.Errorf("%d are left, swept: %v", p.left(), p.sweeping())
		}
	})
}

func TestCloseErrorIsLogged(t *testing.T) {
	var log bytes.Buffer
	old := slog.Default()
	defer slog.SetDefault(old)
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	synctest.Test(t, func(t *testing.T) {
		var p Pool[*thing]
		x := take(t, &p, "k")
		x.err = errors.New("stuck")
		p.Drop(x)
		time.Sleep(Limit)
	})
	if !strings.Contains(log.String(), "stuck") {
		t.Errorf("the log says %q", log.String())
	}
}
