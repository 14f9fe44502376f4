package kafka

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// From Kafka to Kafka, several subtasks, stopped: every record once, in the order of its partition.
func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 4, "in", "out")
		b.fill("in", 4, 0, 500)
		g := NewGroup(b.group("g"))
		defer g.Close()
		run := job(g, stream.Config{Parallelism: 3, Checkpoint: stream.CheckpointConfig{Interval: 100 * time.Millisecond}}, answer).Start(t.Context())
		b.await(run, 4*500)
		run.Stop()
		if err := run.Wait(); err != stream.ErrStopped {
			t.Fatal(err)
		}
		b.check(b.committed("out"), 4, 500, true)
		// Another process goes on where this one ended.
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		b.fill("in", 4, 500, 700)
		g = NewGroup(b.group("g"))
		defer g.Close()
		run = job(g, stream.Config{Parallelism: 2, Checkpoint: stream.CheckpointConfig{Interval: 100 * time.Millisecond}}, answer).Start(t.Context())
		b.await(run, 4*200)
		run.Stop()
		if err := run.Wait(); err != stream.ErrStopped {
			t.Fatal(err)
		}
		b.check(b.committed("out"), 4, 700, true)
	})
}

// await waits until a run has published so many results.
func (b *broker) await(run *stream.Run, n int64) {
	b.t.Helper()
	for range 100_000 {
		if run.Progress().Committed >= n {
			return
		}
		select {
		case <-run.Done():
			b.t.Fatalf("the run ended: %v; %+v", run.Wait(), run.Progress())
		case <-time.After(10 * time.Millisecond):
		}
	}
	b.t.Fatalf("%d of %d results are published; %+v", run.Progress().Committed, n, run.Progress())
}

// A job that fails at any moment, with results in its transaction and slow commits, publishes
// nothing twice.
func TestGroupRestarts(t *testing.T) {
	for range 5 {
		seed := rand.Uint64()
		synctest.Test(t, func(t *testing.T) {
			t.Logf("seed %d", seed)
			b := newBroker(t, 2, "in", "out")
			b.fill("in", 2, 0, 2000)
			for _, key := range []kmsg.Key{kmsg.EndTxn, kmsg.TxnOffsetCommit} {
				b.fake.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
					b.fake.KeepControl()
					b.fake.SleepControl(func() { time.Sleep(20 * time.Millisecond) })
					return nil, nil, false
				})
			}
			g := NewGroup(b.group("g"))
			defer g.Close()
			var mu sync.Mutex
			rng := rand.New(rand.NewPCG(seed, 0))
			answers := func(ctx context.Context, v []byte) ([]byte, error) {
				mu.Lock()
				fail, d := rng.IntN(150) == 0, time.Duration(rng.IntN(30))*time.Millisecond
				mu.Unlock()
				time.Sleep(d)
				if fail {
					return nil, flaky{}
				}
				return answer(ctx, v)
			}
			run := job(g, stream.Config{
				Parallelism: 2, Checkpoint: stream.CheckpointConfig{Interval: 50 * time.Millisecond},
				Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 1000, Delay: 10 * time.Millisecond},
			}, answers).Start(t.Context())
			b.await(run, 2*2000)
			if p := run.Progress(); p.Restarts < 3 {
				t.Errorf("%d restarts", p.Restarts)
			}
			run.Stop()
			run.Wait()
			b.check(b.committed("out"), 2, 2000, true)
		})
	}
}

// member is one process of several with the same group.
type member struct {
	b      *broker
	g      *Group
	run    *stream.Run
	cancel context.CancelFunc
	cut    *severed
}

// severed is a network that can be cut.
type severed struct {
	b     *broker
	mu    sync.Mutex
	conns []net.Conn
	cut   bool
}

func (s *severed) dial(ctx context.Context, network, host string) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut {
		return nil, errors.New("the network is cut")
	}
	c, err := s.b.net.DialContext(ctx, network, host)
	if err == nil {
		s.conns = append(s.conns, c)
	}
	return c, err
}

func (s *severed) sever() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = true
	for _, c := range s.conns {
		c.Close()
	}
}

func (s *severed) mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut, s.conns = false, nil
}

func (b *broker) start(name string) *member { return b.startAt(name, Earliest) }

func (b *broker) startAt(name string, s Start) *member {
	m := &member{b: b, cut: &severed{b: b}}
	cfg := b.group(name)
	cfg.Start = s
	cfg.Options = append(cfg.Options, kgo.Dialer(m.cut.dial))
	cfg.TransactionTimeout = 20 * time.Second
	m.g = NewGroup(cfg)
	slow := func(ctx context.Context, v []byte) ([]byte, error) {
		time.Sleep(300 * time.Millisecond)
		return answer(ctx, v)
	}
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(b.t.Context())
	m.run = job(m.g, stream.Config{
		Parallelism: 2, Checkpoint: stream.CheckpointConfig{Interval: 200 * time.Millisecond},
		Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 1000, Delay: 100 * time.Millisecond},
	}, slow).Start(ctx)
	return m
}

// leave stops in order.
func (m *member) leave() {
	m.b.t.Helper()
	m.run.Stop()
	if err := m.run.Wait(); err != stream.ErrStopped {
		m.b.t.Errorf("stopped with %v", err)
	}
	m.g.Close()
	m.cancel()
}

// kill ends a member, which cannot leave the group.
func (m *member) kill() {
	m.cut.sever()
	m.cancel()
	m.run.Wait()
	m.g.Close()
}

// Members join, leave and are killed while others work: every record once, in the order of its
// partition.
func TestGroupRebalances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 4000
		b := newBroker(t, 4, "in", "out")
		b.fill("in", 4, 0, n)
		first := b.start("g")
		time.Sleep(3 * time.Second)
		second := b.start("g")
		time.Sleep(5 * time.Second)
		if p := second.run.Progress(); p.Read == 0 {
			t.Errorf("the second member has read nothing: %+v", p)
		}
		third := b.start("g")
		time.Sleep(5 * time.Second)
		second.leave()
		time.Sleep(3 * time.Second)
		third.kill()
		time.Sleep(5 * time.Second)
		fourth := b.start("g")
		for range 1000 {
			time.Sleep(time.Second)
			out, total := b.committed("out"), 0
			for _, v := range out {
				total += len(v)
			}
			if total >= 4*n {
				break
			}
		}
		b.check(b.committed("out"), 4, n, true)
		for i, m := range []*member{first, second, third, fourth} {
			p := m.run.Progress()
			t.Logf("member %d: read %d, %d restarts, %d checkpoints", i, p.Read, p.Restarts, p.CheckpointsCompleted)
		}
		if p := first.run.Progress(); p.Restarts > 0 {
			t.Errorf("a rebalance cost the first member %d restarts: %v", p.Restarts, p.LastError)
		}
		first.leave()
		fourth.leave()
	})
}

// flaky is a failure of a server that is out of reach for a moment. Any number of restarts may
// follow such failures.
type flaky struct{}

func (flaky) Error() string          { return "flaky" }
func (flaky) Verdict() async.Verdict { return async.Verdict{Class: async.Transport} }
