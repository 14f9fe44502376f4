package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/stream"
)

// oneRow makes every record a request of its own.
var oneRow = sidecar.Config{MaxBatch: 1, Window: 64}

func fault(t *testing.T, what string, call int64) mock.Fault {
	t.Helper()
	f, err := mock.ParseFault(fmt.Sprint(what, call))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Per subtask, the records that the sidecar has and has not answered never exceed the capacity, and
// reach it.
func TestCapacity(t *testing.T) {
	in, want := records(t, 2000)
	for _, capacity := range []int{1, 7, 64} {
		for _, parallelism := range []int{1, 3} {
			synctest.Test(t, func(t *testing.T) {
				s := sidecartest.Start(t, sidecartest.Script{Latency: time.Millisecond, Jitter: 5 * time.Millisecond})
				s.Block()
				// A request for each record: the first ones of many records may be small, and take
				// a place of the window all the same.
				k := build(t, spec{in: in, server: s, parallelism: parallelism, op: async.Config{Capacity: capacity}, client: oneRow})
				run := k.Start(t.Context())
				synctest.Wait() // nothing moves any more: the operator is full
				if st := s.Status(); st.Rows != capacity*parallelism {
					t.Errorf("capacity %d, parallelism %d: %d records unanswered", capacity, parallelism, st.Rows)
				}
				s.Release()
				if err := run.Wait(); err != nil {
					t.Fatal(err)
				}
				sameBytes(t, output(t, k.out), want)
				for conn, peak := range s.Status().PeakRowsOf {
					if peak != capacity {
						t.Errorf("connection %d: at most %d records unanswered, capacity %d", conn, peak, capacity)
					}
				}
			})
		}
	}
}

// A call that never answers ends at its deadline: not a tick earlier, not one later.
func TestTimeout(t *testing.T) {
	in, _ := records(t, 300)
	const timeout = 1234567 * time.Microsecond
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: time.Millisecond, Faults: []mock.Fault{{Kind: mock.Hang, First: 100}}})
		k := build(t, spec{in: in, server: s, op: async.Config{Capacity: 64, Timeout: timeout}, client: oneRow})
		err := k.Run(t.Context())
		ended := time.Now()
		synctest.Wait() // until the server has seen the end too
		re := recordError(t, err)
		if re.Class != async.Timeout || !errors.Is(err, async.ErrTimeout) {
			t.Fatalf("failed with %v", err)
		}
		call := s.Log()[99]
		if took := ended.Sub(call.Arrived); took != timeout {
			t.Errorf("ended %v after the call, want %v", took, timeout)
		}
		if call.End == 0 {
			t.Error("the call was not cancelled at the sidecar (A23)")
		}
		if s.Status().Connections != 0 {
			t.Error("a connection is left")
		}
	})
}

// One connection for each subtask, and none after the job's end, however it ends.
func TestConnections(t *testing.T) {
	in, _ := records(t, 1000)
	for _, parallelism := range []int{1, 2, 4} {
		for _, end := range []string{"done", "failed", "cancelled", "stopped"} {
			t.Run(fmt.Sprintf("%s/parallelism=%d", end, parallelism), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					script := sidecartest.Script{Latency: 10 * time.Millisecond, Jitter: 10 * time.Millisecond}
					if end == "failed" {
						script.Faults = []mock.Fault{{Kind: mock.BadRow, Row: ptr(500)}}
					}
					s := sidecartest.Start(t, script)
					k := build(t, spec{in: in, server: s, parallelism: parallelism, op: async.Config{Capacity: 32}, interval: 50 * time.Millisecond})
					enough := errors.New("enough")
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					run := k.Start(ctx)
					if _, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Answered >= 10 }); err != nil {
						t.Fatal(err)
					}
					if n := s.Status().Connections; n != parallelism {
						t.Errorf("%d connections while it runs, want %d", n, parallelism)
					}
					var want error
					switch end {
					case "failed":
						want = sidecar.ErrBadRecord
					case "cancelled":
						want = enough
						cancel(enough)
					case "stopped":
						want = stream.ErrStopped
						run.Stop()
					}
					if err := run.Wait(); !errors.Is(err, want) {
						t.Errorf("ended with %v, want %v", err, want)
					}
					synctest.Wait()
					if st := s.Status(); st.Connections != 0 || st.Accepted != parallelism {
						t.Errorf("%d connections are left, %d were accepted; want 0 and %d", st.Connections, st.Accepted, parallelism)
					}
				})
			})
		}
	}
}

func ptr(v float64) *float64 { return &v }
