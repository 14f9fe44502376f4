package sidecar

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// A lost server is dialled at once, then after 50 ms x 1.6^k up to 2 s, within the jitter.
func TestReconnectBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		r := newRecorder(t)
		r.open(p.config())
		time.Sleep(time.Minute)
		p.forget()
		lost := time.Now()
		p.kill()
		synctest.Wait()
		if !slices.Equal(r.events, []string{"suspend"}) {
			t.Fatalf("events %v", r.events)
		}
		time.Sleep(30 * time.Second)
		dials := p.dialled()
		if dials[0] != lost {
			t.Errorf("first dial after %v", dials[0].Sub(lost))
		}
		for k := range len(dials) - 1 {
			gap := dials[k+1].Sub(dials[k])
			want := min(50*math.Pow(1.6, float64(k)), 2000)
			if ms := float64(gap) / float64(time.Millisecond); math.Abs(ms-want) > 0.2*want+0.001 {
				t.Errorf("dial %d after %v, want %.0fms within 20%%", k+1, gap, want)
			}
		}
		if n := len(dials); n < 18 || n > 26 {
			t.Errorf("%d dials in 30s", n)
		}
		if !strings.Contains(errText(r.suspended), "connection refused") || async.VerdictOf(r.suspended) != (async.Verdict{Class: async.Transport, Hold: true}) {
			t.Errorf("the reason is %v", r.suspended)
		}
		p.start()
		r.call(numbers{21}) // meanwhile
		r.await()
		r.check()
		if open, _, _ := p.connections(); !slices.Equal(r.events, []string{"suspend", "resume"}) || open != 1 {
			t.Errorf("events %v, %d connections", r.events, open)
		}
	})
}

// A server is killed and restarted again and again, and connections break: every record gets its
// result once.
func TestDiesAndComesBack(t *testing.T) {
	for _, how := range []string{"kill", "drop"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seed := rand.Uint64()
				rng := rand.New(rand.NewPCG(seed, 0))
				p := newPeer(t)
				p.infer = func(context.Context, *oip.ModelInferRequest, [][]float32) error {
					time.Sleep(20 * time.Millisecond)
					return nil
				}
				r := newRecorder(t)
				c := r.open(p.config())
				over := make(chan struct{})
				go func() {
					defer close(over)
					for range 12 {
						time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
						if how == "drop" {
							p.drop()
							continue
						}
						p.kill()
						time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
						p.start()
					}
				}()
				for _, v := range ramp(600) {
					r.call(v)
					time.Sleep(5 * time.Millisecond)
				}
				r.await()
				<-over
				r.await()
				r.check()
				if r.held == 0 {
					t.Error("nothing was in flight at any loss")
				}
				c.Close()
				synctest.Wait()
				if open, _, peak := p.connections(); open != 0 || peak > 2 {
					t.Errorf("%d connections left, %d at a time", open, peak)
				}
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			})
		})
	}
}

// A server that accepts and closes at once is not dialled without a pause. Once it recovers,
// everything continues.
func TestFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		var flapping atomic.Bool
		r := newRecorder(t)
		c := r.open(p.config())
		flapping.Store(true)
		go func() {
			for range 20_000 {
				time.Sleep(time.Millisecond)
				p.drop()
			}
			flapping.Store(false)
		}()
		for _, v := range ramp(100) {
			r.call(v)
		}
		r.await()
		for flapping.Load() {
			time.Sleep(time.Millisecond)
		}
		if n := len(p.dialled()); n > 60 {
			t.Errorf("%d dials in 20s", n)
		}
		r.call(ramp(100)...)
		r.await()
		r.check()
		synctest.Wait()
		time.Sleep(10 * time.Second)
		if why := c.link.down.Load(); why != nil || r.suspended != nil {
			t.Errorf("still down: %v, %v", why, r.suspended)
		}
		for i, e := range r.events {
			if want := []string{"suspend", "resume"}[i%2]; e != want {
				t.Fatalf("event %d is %s", i, e)
			}
		}
	})
}

// A server answers probes but refuses calls as unavailable. The calls are held, without a storm of
// requests, and succeed when the server recovers.
func TestUnavailableWhileConnected(t *testing.T) {
	for _, probes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t)
			well := time.Now().Add(20 * time.Second)
			down := func() error {
				if time.Now().Before(well) {
					return status.Error(codes.Unavailable, "upstream is away")
				}
				return nil
			}
			p.infer = func(context.Context, *oip.ModelInferRequest, [][]float32) error { return down() }
			if probes {
				p.live = down
			}
			r := newRecorder(t)
			r.open(p.config())
			r.call(ramp(10)...)
			r.await()
			r.check()
			if late := time.Since(well); late < 0 || late > 3*time.Second {
				t.Errorf("done %v after the server had recovered", late)
			}
			if n := len(p.sizes()); n > 30 {
				t.Errorf("%d requests in 20s", n)
			}
		})
	}
}

// The connection is the user's own, and does not report its state.
func TestConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		cfg, ep, err := p.config().resolve()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := dial(&cfg, ep, &wire{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r := newRecorder(t)
		c := r.open(Config{Model: "double", Conn: struct{ grpc.ClientConnInterface }{conn}})
		r.call(ramp(10)...)
		r.await()
		p.kill()
		r.call(ramp(10)...)
		go func() {
			time.Sleep(3 * time.Second)
			p.start()
		}()
		r.await()
		r.check()
		c.Close()
		synctest.Wait()
		if open, _, _ := p.connections(); open != 1 {
			t.Errorf("%d connections; the user's own must stay open", open)
		}
	})
}

// NonIdempotent: a call that may have been written fails; a call that was not is held as usual.
func TestNonIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.infer = func(ctx context.Context, _ *oip.ModelInferRequest, rows [][]float32) error {
			if rows[0][0] < 100 {
				<-ctx.Done()
			}
			return nil
		}
		r := newRecorder(t)
		cfg := p.config()
		cfg.NonIdempotent, cfg.Window = true, 1
		r.open(cfg)
		r.call(numbers{1}, numbers{2}) // is sent
		synctest.Wait()
		r.call(numbers{100}, numbers{101}) // waits
		p.kill()
		go func() {
			time.Sleep(time.Second)
			p.start()
		}()
		r.await()
		r.check(0, 1)
		err := r.outcome[0].Err
		if v := async.VerdictOf(err); !errors.Is(err, ErrUnreachable) || v != (async.Verdict{Class: async.Transport}) || !strings.Contains(errText(err), "NonIdempotent") {
			t.Errorf("%v (%+v)", err, v)
		}
		if r.held != 2 {
			t.Errorf("%d held, want the 2 that were not sent", r.held)
		}
	})
}

// A lost call is returned after the operator was suspended, so it is not made again at once.
func TestSuspendBeforeHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.infer = func(ctx context.Context, _ *oip.ModelInferRequest, _ [][]float32) error {
			<-ctx.Done()
			return ctx.Err()
		}
		for range 20 {
			r := newRecorder(t)
			order := &orderly{recorder: r}
			c, err := NewAsyncFunction(p.config(), doubling).Open(t.Context(), r.sub, order)
			if err != nil {
				t.Fatal(err)
			}
			r.caller = c
			r.call(ramp(8)...)
			synctest.Wait()
			p.drop()
			synctest.Wait()
			if !order.held || order.early {
				t.Errorf("held %v, before Suspend: %v", order.held, order.early)
			}
			c.Close()
		}
	})
}

type orderly struct {
	*recorder
	held, early bool
}

func (o *orderly) Complete(cs []async.Completion[numbers]) {
	o.mu.Lock()
	o.held = true
	if len(o.events) == 0 {
		o.early = true
	}
	o.mu.Unlock()
	o.recorder.Complete(cs)
}
