package kafka

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// A member whose commit is slow is taken for dead while it lasts, another reads its partitions, and
// it is a member again before the commit goes on: it must not be carried out.
func TestGroupCommitOfAZombie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 3000
		b := newBroker(t, 2, "in", "out")
		b.fill("in", 2, 0, n)
		cfg := b.group("g")
		cfg.TransactionTimeout = 5 * time.Minute
		g := NewGroup(cfg)
		defer g.Close()
		start := func(g *Group) *stream.Run {
			return job(g, stream.Config{
				Parallelism: 2, Checkpoint: stream.CheckpointConfig{Interval: 200 * time.Millisecond},
				Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 1000, Delay: 100 * time.Millisecond},
			}, func(ctx context.Context, v []byte) ([]byte, error) {
				time.Sleep(300 * time.Millisecond)
				return answer(ctx, v)
			}).Start(t.Context())
		}
		var deaf, slow atomic.Bool
		var member atomic.Value
		member.Store("")
		b.fake.ControlKey(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
			b.fake.KeepControl()
			if deaf.Load() && req.(*kmsg.HeartbeatRequest).MemberID == member.Load() {
				// The member believes that all is well, and the broker hears
				// nothing.
				return req.ResponseKind(), nil, true
			}
			return nil, nil, false
		})
		b.fake.ControlKey(int16(kmsg.AddOffsetsToTxn), func(req kmsg.Request) (kmsg.Response, error, bool) {
			b.fake.KeepControl()
			if req.(*kmsg.AddOffsetsToTxnRequest).TransactionalID == g.prod.id && slow.CompareAndSwap(true, false) {
				b.fake.SleepControl(func() { time.Sleep(9 * time.Second) })
			}
			return nil, nil, false
		})
		zombie := start(g)
		b.await(zombie, 100)
		id, _ := g.member.GroupMetadata()
		member.Store(id)
		deaf.Store(true)
		h := NewGroup(b.group("g"))
		defer h.Close()
		other := start(h)
		time.Sleep(7 * time.Second)
		slow.Store(true)
		time.Sleep(4 * time.Second)
		deaf.Store(false) // the session has ended, the commit has not
		time.Sleep(time.Minute)
		if p := other.Progress(); p.Read == 0 {
			t.Errorf("the other has read nothing: %+v", p)
		}
		for range 600 {
			total := 0
			for _, v := range b.committed("out") {
				total += len(v)
			}
			if total >= 2*n {
				break
			}
			time.Sleep(time.Second)
		}
		b.check(b.committed("out"), 2, n, true)
		if p := zombie.Progress(); p.Restarts == 0 || slow.Load() {
			t.Errorf("it was never taken for dead: %+v", p)
		}
		for _, run := range []*stream.Run{zombie, other} {
			run.Stop()
			run.Wait()
		}
	})
}
