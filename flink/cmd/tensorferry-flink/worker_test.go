package main

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/flink/internal/idle"
)

func TestWorkerEndsBySignal(t *testing.T) {
	w := newWorld()
	w.signals <- syscall.SIGTERM
	code := program.Run(&w.World, []string{"worker", "--listen", "127.0.0.1:0", "--log-format", "json"})
	w.has(t, code, exitOK, "", `"msg":"the worker pool ends","signal":"terminated"`)
}

// Only a host that says so lets others than this machine in, and then the log says it.
func TestWorkerListensOnLoopback(t *testing.T) {
	for listen, others := range map[string]bool{":0": false, "127.0.0.1:0": false, "localhost:0": false, "0.0.0.0:0": true, "[::]:0": true} {
		w := newWorld()
		w.signals <- syscall.SIGTERM
		w.has(t, program.Run(&w.World, []string{"worker", "--listen", listen}), exitOK, "", "the worker pool is ready")
		if said := w.errs.String(); strings.Contains(said, "other machines may reach the worker pool") != others {
			t.Errorf("--listen %s: want a warning: %v; it says\n%s", listen, others, said)
		}
	}
	at, err := net.ResolveTCPAddr("tcp", listenAt(":50000"))
	if err != nil || !at.IP.IsLoopback() || at.Port != 50000 {
		t.Errorf("a port without a host is %v (%v)", at, err)
	}
	if !strings.HasPrefix(defaultPool, "127.0.0.1:") {
		t.Errorf("by default it is %s", defaultPool)
	}
}

// kept is something that bundles use.
type kept struct {
	atWork, closed atomic.Bool
	slow           time.Duration // how long Close takes
}

func (k *kept) Close() error {
	time.Sleep(k.slow)
	k.closed.Store(true)
	return nil
}

func (k *kept) Abandoned(time.Time) bool { return !k.atWork.Load() }

func lend(t *testing.T, p *idle.Pool[*kept], k *kept) *kept {
	t.Helper()
	_, err := p.Take(t.Context(), "k", func(context.Context, int) (*kept, error) { return k, nil })
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A worker pool that ends closes what its workers have kept: a sidecar of a job's own would else
// leave its files behind.
func TestWorkerClosesWhatIsKept(t *testing.T) {
	var p idle.Pool[*kept]
	k := lend(t, &p, &kept{})
	p.Give(k)
	w := newWorld()
	w.signals <- syscall.SIGTERM
	code := program.Run(&w.World, []string{"worker", "--listen", "127.0.0.1:0"})
	if code != exitOK || !k.closed.Load() {
		t.Errorf("it ended with %d; what it kept is closed: %v", code, k.closed.Load())
	}
}

func TestCloseKept(t *testing.T) {
	for name, c := range map[string]struct {
		slow, atWork, took time.Duration
		warns              bool
	}{
		"at once":                   {0, 0, 0, false},
		"slowly":                    {closeLimit - time.Second, 0, closeLimit - time.Second, false},
		"when a bundle leaves it":   {0, time.Second, time.Second, false},
		"slowly, then":              {time.Second, time.Second, 2 * time.Second, false},
		"not in time":               {closeLimit + time.Second, 0, closeLimit, true},
		"not in time, for a bundle": {0, closeLimit + time.Second, closeLimit, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p idle.Pool[*kept]
				k := lend(t, &p, &kept{slow: c.slow})
				if c.atWork > 0 {
					k.atWork.Store(true)
					time.AfterFunc(c.atWork, func() { p.Drop(k) })
				} else {
					p.Give(k)
				}
				var said text
				began := time.Now()
				closeKept(slog.New(slog.NewTextHandler(&said, nil)))
				if d := time.Since(began); d < c.took || d > c.took+time.Second/10 {
					t.Errorf("it took %v", d)
				}
				if k.closed.Load() == c.warns || strings.Contains(said.String(), "not all channels and clients were closed in time") != c.warns {
					t.Errorf("closed: %v, and it says %q", k.closed.Load(), said.String())
				}
				time.Sleep(3 * closeLimit) // the pool's own goroutine ends
			})
		})
	}
}
