package integration

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"context"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// The sidecar dies in mid-run and comes back: the operator holds what it has, nothing is lost, no
// restart is spent, and the committed bytes are those of an undisturbed run.
func TestSidecarDiesAndComesBack(t *testing.T) {
	in, want := records(t, 3000)
	for _, seed := range seeds(t, 5) {
		for _, parallelism := range []int{1, 2, 4} {
			t.Run(fmt.Sprintf("seed=%d/parallelism=%d", seed, parallelism), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := sidecartest.Start(t, sidecartest.Script{Latency: 5 * time.Millisecond, Jitter: 20 * time.Millisecond, Seed: seed})
					k := build(t, spec{in: in, server: s, parallelism: parallelism, interval: 25 * time.Millisecond, op: async.Config{Capacity: 50, Timeout: time.Second}})
					run := k.Start(t.Context())
					kills := 0
					over := func() bool {
						select {
						case <-run.Done():
							return true
						default:
							return false
						}
					}
					for range 3 {
						target := len(k.store.snapshots()) + 2
						for len(k.store.snapshots()) < target && !over() {
							time.Sleep(time.Millisecond)
						}
						for s.Status().Rows == 0 && !over() {
							time.Sleep(time.Millisecond)
						}
						if s.Status().Rows == 0 {
							break // it is done already
						}
						s.Kill()
						kills++
						time.Sleep(3 * time.Second) // beyond the timeout: timers stand still
						if err := s.Restart(); err != nil {
							t.Fatal(err)
						}
						time.Sleep(3 * time.Second)
					}
					if err := run.Wait(); err != nil {
						t.Fatal(err)
					}
					sameBytes(t, output(t, k.out), want)
					if kills == 0 || run.Progress().Restarts != 0 {
						t.Errorf("%d kills with calls under way, %d restarts; want some and none", kills, run.Progress().Restarts)
					}
				})
			})
		}
	}
}

// A sidecar that is never there is held for as long as hold says; then the job ends in one clear
// message.
func TestUnreachableSidecar(t *testing.T) {
	in, _ := records(t, 10)
	synctest.Test(t, func(t *testing.T) {
		refused := func(context.Context, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED}
		}
		start := time.Now()
		k := build(t, spec{in: in, op: async.Config{Hold: 7 * time.Second}, client: sidecar.Config{Endpoint: "unix:///run/digits.sock", Model: "digits", Dialer: refused}})
		err := k.Run(t.Context())
		if !errors.Is(err, sidecar.ErrUnreachable) || time.Since(start) != 7*time.Second {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
		for _, part := range []string{"unix:///run/digits.sock", "digits", "connection refused", "7s"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("the message does not say %q: %v", part, err)
			}
		}
		t.Log(err)
	})
}

// It is lost in mid-run, and does not come back within hold.
func TestSidecarLostForGood(t *testing.T) {
	in, _ := records(t, 1000)
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: 50 * time.Millisecond})
		k := build(t, spec{in: in, server: s, op: async.Config{Hold: 5 * time.Second, Capacity: 8}, restart: restart.Config{Strategy: "none"}})
		run := k.Start(t.Context())
		if _, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Answered > 10 && st.Rows > 0 }); err != nil {
			t.Fatal(err)
		}
		s.Kill()
		killed := time.Now()
		err := run.Wait()
		re := recordError(t, err)
		if re.Class != async.Transport || !errors.Is(err, async.ErrHold) || !errors.Is(err, sidecar.ErrUnreachable) || time.Since(killed) != 5*time.Second {
			t.Fatalf("after %v: %v", time.Since(killed), err)
		}
		t.Log(err)
	})
}

// Each row of the table of errors: the typed failure, and what the job does about it.
func TestErrorTable(t *testing.T) {
	in, want := records(t, 200)
	const (
		mended   = "mended"   // retried or held by the operator: the job never notices
		restarts = "restarts" // the job starts again and completes
		ends     = "ends"     // no restart: the job is over
	)
	for _, c := range []struct {
		code   codes.Code
		reason string
		text   string
		times  int
		then   string
		err    error
		class  async.Class
	}{
		{codes.ResourceExhausted, "QUEUE_FULL", "", 20, mended, nil, 0},
		{codes.ResourceExhausted, "MEMORY_PRESSURE", "", 20, mended, nil, 0},
		{codes.Unavailable, "", "connection reset by peer", 5, mended, nil, 0},
		{codes.Unavailable, "DRAINING", "", 5, mended, nil, 0},
		{codes.Unavailable, "MODEL_LOADING", "", 5, mended, nil, 0},
		{codes.Unavailable, "", "Exceeds maximum queue size", 5, mended, nil, 0},
		{codes.Unavailable, "", "Request timeout expired", 1, mended, nil, 0},
		{codes.DeadlineExceeded, "QUEUE_TIMEOUT", "", 1, restarts, sidecar.ErrTimeout, async.Timeout},
		{codes.Canceled, "", "", 5, mended, nil, 0}, // nobody here has cancelled it
		{codes.InvalidArgument, "BAD_TENSOR", "", 1, ends, sidecar.ErrBadRecord, async.BadRecord},
		{codes.InvalidArgument, "SHAPE_MISMATCH", "", 1, ends, sidecar.ErrBadRecord, async.BadRecord},
		{codes.InvalidArgument, "UNKNOWN_INPUT", "", 1, ends, sidecar.ErrMismatch, async.Permanent},
		{codes.NotFound, "MODEL_NOT_FOUND", "", 1, ends, sidecar.ErrModelNotFound, async.Permanent},
		{codes.FailedPrecondition, "MODEL_LOAD_FAILED", "", 1, ends, sidecar.ErrModelUnusable, async.Permanent},
		{codes.FailedPrecondition, "VERSION_MISMATCH", "", 1, ends, sidecar.ErrModelUnusable, async.Permanent},
		{codes.Unimplemented, "UNSUPPORTED_FEATURE", "", 1, ends, sidecar.ErrUnsupported, async.Permanent},
		// two retries
		{codes.Internal, "BACKEND_ERROR", "", 2, mended, nil, 0},
		// one too many
		{codes.Internal, "BACKEND_ERROR", "", 3, restarts, sidecar.ErrBackend, async.Backend},
		// each attempt is made again with nothing beside it
		{codes.Unknown, "", "it broke", 5, mended, nil, 0},
		{codes.Unknown, "", "it broke", 6, restarts, sidecar.ErrBackend, async.Backend},
		{codes.DataLoss, "BAD_OUTPUT", "", 1, restarts, sidecar.ErrBadOutput, async.Backend},
		{codes.Unauthenticated, "", "who are you", 1, ends, sidecar.ErrUnauthorized, async.Permanent},
		{codes.PermissionDenied, "", "not for you", 1, ends, sidecar.ErrUnauthorized, async.Permanent},
	} {
		t.Run(fmt.Sprintf("%v %s %s x%d", c.code, c.reason, c.text, c.times), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// One record fails, from its row's value on: alone in its request and again at each
				// attempt.
				s := sidecartest.Start(t, sidecartest.Script{Latency: time.Millisecond, Faults: []mock.Fault{{
					Kind: mock.Fail, Row: ptr(57), Times: c.times,
					Error: backend.Error{Code: c.code, Reason: c.reason, Message: c.text, RetryAfter: 20 * time.Millisecond},
				}}})
				k := build(t, spec{
					in: in, server: s, op: async.Config{Capacity: 10}, client: oneRow,
					restart: restart.Config{Strategy: "fixed-delay"}, interval: 10 * time.Millisecond,
				})
				err := k.Run(t.Context())
				begun, _ := of[stream.Restarting](k.watch)
				switch c.then {
				case mended:
					if err != nil || len(begun) != 0 {
						t.Fatalf("%d restarts, %v; want neither", len(begun), err)
					}
				case restarts:
					if err != nil || len(begun) != 1 {
						t.Fatalf("%d restarts, %v; want one, and success", len(begun), err)
					}
					err = begun[0].Err
				case ends:
					if err == nil || len(begun) != 0 {
						t.Fatalf("%d restarts, %v; want none, and the failure", len(begun), err)
					}
				}
				if c.then != ends {
					sameBytes(t, output(t, k.out), want)
				}
				if c.then == mended {
					return
				}
				re := recordError(t, err)
				se, ok := errors.AsType[*sidecar.Error](err)
				if !ok || !errors.Is(err, c.err) || re.Class != c.class || se.Reason != c.reason {
					t.Fatalf("got %v (class %v); want %v, class %v, reason %s", err, re.Class, c.err, c.class, c.reason)
				}
				// The record is named: by its value, its split and its line's offset.
				if se.Model != "model" || se.Endpoint == "" || se.RequestID == "" || re.Split != 0 || re.Position == 0 {
					t.Errorf("where it happened is missing: %+v, %+v", re, se)
				}
			})
		})
	}
}

// One poison record in a micro-batch of 64: the record fails and no other, whether
// the server names it or only fails the whole request.
func TestPoisonRecordIsFound(t *testing.T) {
	in, _ := records(t, 64)
	for _, named := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := mock.Fault{Kind: mock.BadRow, Row: ptr(37)}
			if !named {
				f.Kind, f.Error = mock.Fail, backend.Error{Code: codes.InvalidArgument, Message: "a bad tensor somewhere"}
			}
			s := sidecartest.Start(t, sidecartest.Script{Latency: time.Millisecond, Faults: []mock.Fault{f}})
			k := build(t, spec{in: in, server: s, op: async.Config{Capacity: 64}, client: sidecar.Config{Window: 1, MaxBatch: 64}})
			err := k.Run(t.Context())
			re := recordError(t, err)
			if re.Class != async.BadRecord || !errors.Is(err, sidecar.ErrBadRecord) {
				t.Fatal(err)
			}
			line := strings.Count(string(readPrefix(t, in, re.Position)), "\n")
			if line != 37 {
				t.Errorf("blames line %d (named %v): %v", line, named, err)
			}
			if n := len(s.Log()); n > 1+2*64-2 {
				t.Errorf("%d requests to find one record of 64", n)
			}
		})
	}
}
