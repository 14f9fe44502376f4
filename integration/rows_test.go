package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// Rows of the conformance list (docs/conformance.md) that are about a whole job.

// TestRow53: one poison record in a micro-batch of 64 gives 63 results and one failure, with a
// server that names the row and with one that only fails the request.
func TestRow53(t *testing.T) {
	in, want := records(t, 64)
	lines := bytes.SplitAfter(want, []byte("\n"))
	survivors := bytes.Join(append(lines[:37:37], lines[38:]...), nil)
	for _, named := range []bool{true, false} {
		t.Run(fmt.Sprintf("53 named %v", named), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := mock.Fault{Kind: mock.BadRow, Row: ptr(37)}
				if !named {
					f.Kind, f.Error = mock.Fail, backend.Error{Code: codes.InvalidArgument, Message: "a bad tensor somewhere"}
				}
				s := sidecartest.Start(t, sidecartest.Script{Latency: time.Millisecond, Faults: []mock.Fault{f}})
				k := build(t, spec{
					in: in, server: s, client: sidecar.Config{Window: 1, MaxBatch: 64},
					op: async.Config{Capacity: 64, OnError: async.OnError{BadRecord: async.Drop}},
				})
				run := k.Start(t.Context())
				if err := run.Wait(); err != nil {
					t.Fatal(err)
				}
				sameBytes(t, output(t, k.out), survivors)
				if p := run.Progress(); p.Read != 64 || p.Completed != 63 || p.Dropped != 1 {
					t.Errorf("%+v", p)
				}
				// The first record may have left before the others were read.
				largest, log := 0, s.Log()
				for _, c := range log {
					largest = max(largest, c.Rows)
				}
				if largest < 63 || len(log) > 2+2*64-2 {
					t.Errorf("%d requests of at most %d rows", len(log), largest)
				}
			})
		})
	}
}

// TestRow50: a job cancelled while its connection is down, in the client's reconnect backoff, and
// one cancelled with calls under way, end at once; no connection is left on either side.
func TestRow50(t *testing.T) {
	in, _ := records(t, 500)
	for _, down := range []bool{true, false} {
		t.Run(fmt.Sprintf("50 disconnected %v", down), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sidecartest.Start(t, sidecartest.Script{Latency: 100 * time.Millisecond})
				k := build(t, spec{in: in, server: s, parallelism: 2, interval: 30 * time.Millisecond, op: async.Config{Capacity: 8}})
				cause := errors.New("enough")
				ctx, cancel := context.WithCancelCause(t.Context())
				run := k.Start(ctx)
				if _, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Answered > 20 && st.Rows > 0 }); err != nil {
					t.Fatal(err)
				}
				if down {
					s.Kill()
					time.Sleep(10 * time.Second) // several tries to reconnect
					if p := run.Progress(); p.InFlight == 0 {
						t.Fatalf("nothing is held: %+v", p)
					}
				}
				synctest.Wait() // a checkpoint on its way is published, or waits for the sidecar
				before, at := output(t, k.out), time.Now()
				cancel(cause)
				if err := run.Wait(); !errors.Is(err, cause) {
					t.Errorf("the job ended with %v", err)
				}
				if took := time.Since(at); took != 0 {
					t.Errorf("it took %v to end", took)
				}
				sameBytes(t, output(t, k.out), before)
				synctest.Wait()
				if st := s.Status(); st.Connections != 0 || st.Rows != 0 {
					t.Errorf("left on the server's side: %+v", st)
				}
			})
		})
	}
}
