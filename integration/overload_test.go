package integration

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// A sidecar whose queue is far too small for what the job may have in flight: it says so, and the
// job finds out what it can take. Nothing fails, no restart is spent, and the limit on calls is
// seen to fall.
func TestOverloadIsBackPressure(t *testing.T) {
	in, want := records(t, 4000)
	for _, unordered := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := sidecartest.Start(t, sidecartest.Script{
				Latency: 2 * time.Millisecond, Instances: 1, MaxBatch: 8, QueueRows: 32, RetryDelay: 5 * time.Millisecond,
			})
			k := build(t, spec{
				in: in, server: s, parallelism: 2, unordered: unordered, interval: 50 * time.Millisecond,
				op: async.Config{Capacity: 400, Timeout: time.Second}, client: sidecar.Config{MaxBatch: 8, Window: 64},
			})
			run := k.Start(t.Context())
			least, most := 1<<30, 0
			for over := false; !over; {
				select {
				case <-run.Done():
					over = true
				case <-time.After(5 * time.Millisecond):
				}
				for _, o := range run.Progress().Operators {
					if o.Async.Limit > 0 {
						least, most = min(least, o.Async.Limit), max(most, o.Async.Limit)
					}
				}
			}
			if err := run.Wait(); err != nil {
				t.Fatal(err)
			}
			if unordered {
				sameLines(t, output(t, k.out), want)
			} else {
				sameBytes(t, output(t, k.out), want)
			}
			p := run.Progress()
			if p.Restarts != 0 || least > 200 {
				t.Errorf("%d restarts; the limit was between %d and %d", p.Restarts, least, most)
			}
			refused := refusals(s)
			if refused == 0 {
				t.Error("the sidecar was never overloaded, so nothing was tested")
			}
			t.Logf("%d of %d requests refused, limit %d to %d, %d holds", refused, len(s.Log()), least, most, p.Operators[1].Async.Holds)
		})
	}
}

// While the sidecar is overloaded for a second nothing fails; the limit falls, and recovers
// afterwards.
func TestOverloadForASecond(t *testing.T) {
	in, want := records(t, 20000)
	synctest.Test(t, func(t *testing.T) {
		from := time.Now().Add(200 * time.Millisecond)
		s := sidecartest.Start(t, sidecartest.Script{Latency: 10 * time.Millisecond, Refuse: func(sidecartest.Call) error {
			if d := time.Since(from); d < 0 || d >= time.Second {
				return nil
			}
			return oip.Error(codes.ResourceExhausted, oip.ReasonQueueFull, "full for a second")
		}})
		k := build(t, spec{in: in, server: s, op: async.Config{Capacity: 64, Timeout: 500 * time.Millisecond}, client: sidecar.Config{Window: 8}})
		run := k.Start(t.Context())
		limit := func() int {
			for _, o := range run.Progress().Operators {
				if o.Async.Limit > 0 {
					return o.Async.Limit
				}
			}
			return 0
		}
		time.Sleep(199 * time.Millisecond)
		before := limit()
		least := before
		for time.Since(from) < time.Second {
			time.Sleep(time.Millisecond)
			least = min(least, limit())
		}
		if refusals(s) == 0 {
			t.Error("nothing was refused, so nothing was tested")
		}
		if err := run.Wait(); err != nil {
			t.Fatal(err)
		}
		sameBytes(t, output(t, k.out), want)
		if before != 64 || least > 4 || limit() != 64 {
			t.Errorf("the limit was %d before, %d during, %d after", before, least, limit())
		}
	})
}

func refusals(s *sidecartest.Server) (n int) {
	for _, c := range s.Log() {
		if c.Reason == "QUEUE_FULL" {
			n++
		}
	}
	return n
}
