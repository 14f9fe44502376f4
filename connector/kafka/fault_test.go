package kafka

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// Whatever a broker answers to the requests that make up a commit, and wherever the connection
// breaks in one, every record is published once, in order.
func TestGroupCommitFaults(t *testing.T) {
	code := func(e *kerr.Error) func(req kmsg.Request) (kmsg.Response, error, bool) {
		return func(req kmsg.Request) (kmsg.Response, error, bool) {
			resp := req.ResponseKind()
			switch r := resp.(type) {
			case *kmsg.EndTxnResponse:
				r.ErrorCode = e.Code
			case *kmsg.AddOffsetsToTxnResponse:
				r.ErrorCode = e.Code
			case *kmsg.TxnOffsetCommitResponse:
				q := req.(*kmsg.TxnOffsetCommitRequest)
				for _, qt := range q.Topics {
					rt := kmsg.NewTxnOffsetCommitResponseTopic()
					rt.Topic = qt.Topic
					for _, qp := range qt.Partitions {
						rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
						rp.Partition, rp.ErrorCode = qp.Partition, e.Code
						rt.Partitions = append(rt.Partitions, rp)
					}
					r.Topics = append(r.Topics, rt)
				}
			}
			return resp, nil, true
		}
	}
	// The connection breaks before the request is carried out.
	breaks := func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("broken"), true }
	for name, c := range map[string]struct {
		key     kmsg.Key
		fault   func(kmsg.Request) (kmsg.Response, error, bool)
		restart bool // it costs a restart
	}{
		"offsets, rebalance in progress":       {kmsg.TxnOffsetCommit, code(kerr.RebalanceInProgress), false},
		"offsets, another generation":          {kmsg.TxnOffsetCommit, code(kerr.IllegalGeneration), false},
		"offsets, unknown member":              {kmsg.TxnOffsetCommit, code(kerr.UnknownMemberID), true},
		"offsets, the connection breaks":       {kmsg.TxnOffsetCommit, breaks, false},
		"group, concurrent transactions":       {kmsg.AddOffsetsToTxn, code(kerr.ConcurrentTransactions), false},
		"group, the connection breaks":         {kmsg.AddOffsetsToTxn, breaks, false},
		"end, the connection breaks":           {kmsg.EndTxn, breaks, false},
		"end, fenced":                          {kmsg.EndTxn, code(kerr.InvalidProducerEpoch), true},
		"end, the transaction is in a bad way": {kmsg.EndTxn, code(kerr.InvalidTxnState), true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, 2, "in", "out")
				b.fill("in", 2, 0, 3000)
				var count atomic.Int64
				b.fake.ControlKey(int16(c.key), func(req kmsg.Request) (kmsg.Response, error, bool) {
					b.fake.KeepControl()
					if count.Add(1)%5 == 3 {
						return c.fault(req)
					}
					return nil, nil, false
				})
				g := NewGroup(b.group("g"))
				defer g.Close()
				run := job(g, stream.Config{
					Parallelism: 2, Checkpoint: stream.CheckpointConfig{Interval: 20 * time.Millisecond},
					Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 100000, Delay: 10 * time.Millisecond},
				}, func(ctx context.Context, v []byte) ([]byte, error) {
					time.Sleep(50 * time.Millisecond)
					return answer(ctx, v)
				}).Start(t.Context())
				b.await(run, 2*3000)
				p := run.Progress()
				run.Stop()
				run.Wait()
				b.check(b.committed("out"), 2, 3000, true)
				if (p.Restarts > 0) != c.restart || count.Load() < 5 {
					t.Errorf("%d restarts, %d requests; last error: %v", p.Restarts, count.Load(), p.LastError)
				}
			})
		})
	}
}

// An answer that is lost leaves it open whether a transaction was committed. The brokers are asked.
func TestGroupCommitAnswerIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 2, "in", "out")
		b.fill("in", 2, 0, 3000)
		m := b.start("g")
		defer m.cancel()
		// Right behind a request to end a transaction the network is gone, and comes back.
		var armed atomic.Bool
		b.fake.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
			b.fake.KeepControl()
			if armed.CompareAndSwap(true, false) {
				m.cut.sever()
			}
			return nil, nil, false
		})
		for range 5 {
			time.Sleep(700 * time.Millisecond)
			armed.Store(true)
			time.Sleep(2 * time.Second)
			armed.Store(false)
			m.cut.mend()
		}
		b.await(m.run, 2*3000)
		t.Logf("%d restarts", m.run.Progress().Restarts)
		m.leave()
		b.check(b.committed("out"), 2, 3000, true)
	})
}

// A checkpoint that fails and is tolerated does not stop the sinks, which hold results back until
// they hear of its end.
func TestGroupToleratesAFailedCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 2, "in", "out")
		b.fill("in", 2, 0, 3000)
		var refused atomic.Int64
		b.fake.ControlKey(int16(kmsg.AddOffsetsToTxn), func(req kmsg.Request) (kmsg.Response, error, bool) {
			b.fake.KeepControl()
			if refused.Add(1)%3 == 0 {
				return nil, nil, false
			}
			resp := req.ResponseKind().(*kmsg.AddOffsetsToTxnResponse)
			resp.ErrorCode = kerr.UnknownServerError.Code
			return resp, nil, true
		})
		g := NewGroup(b.group("g"))
		defer g.Close()
		j := stream.New("j", stream.Config{Checkpoint: stream.CheckpointConfig{Interval: 100 * time.Millisecond, Store: g, TolerableFailures: 5}})
		answers := stream.OrderedWait(stream.From(j, GroupSource(g, Raw[[]byte])), async.Func(answer, 64), ordered)
		stream.To(answers, GroupSink(g, SinkConfig[[]byte]{Topic: "out", Encode: same(g), MaxHeld: 100}))
		began := time.Now()
		run := j.Start(t.Context())
		b.await(run, 2*3000)
		if d := time.Since(began); d > time.Minute {
			t.Errorf("it took %v", d)
		}
		run.Stop()
		run.Wait()
		b.check(b.committed("out"), 2, 3000, true)
	})
}
