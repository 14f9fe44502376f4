package sidecartest_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// request returns a request with input x FP32[1], one row for each value.
func request(id string, values ...float32) *oip.ModelInferRequest {
	var raw []byte
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return &oip.ModelInferRequest{ModelName: "model", Id: id, RawInputContents: [][]byte{raw},
		Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{int64(len(values)), 1}}}}
}

func values(resp *oip.ModelInferResponse) []float32 {
	var out []float32
	for raw := resp.GetRawOutputContents()[0]; len(raw) > 0; raw = raw[4:] {
		out = append(out, math.Float32frombits(binary.LittleEndian.Uint32(raw)))
	}
	return out
}

func dial(t *testing.T, s *sidecartest.Server) oip.GRPCInferenceServiceClient {
	t.Helper()
	conn, err := s.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return oip.NewGRPCInferenceServiceClient(conn)
}

// ready waits for the model as a client does, over the protocol.
func ready(t *testing.T, s *sidecartest.Server) {
	t.Helper()
	if err := s.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLatencyAndLogInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: 5 * time.Millisecond, PerRow: time.Millisecond})
		c := dial(t, s)
		ready(t, s)
		before := time.Now()
		resp, err := c.ModelInfer(t.Context(), request("a", 1, 2, 3))
		if err != nil || !slices.Equal(values(resp), []float32{2, 4, 6}) {
			t.Fatalf("answer %v, %v", resp, err)
		}
		if d := time.Since(before); d != 8*time.Millisecond {
			t.Errorf("took %v, want 5 ms + 3 * 1 ms", d)
		}
		mark := s.Mark()
		log := s.Log()
		if len(log) != 1 {
			t.Fatalf("log %+v", log)
		}
		call := log[0]
		if call.ID != "a" || call.Rows != 3 || !slices.Equal(call.First, []float64{1, 2, 3}) || call.Connection != 1 ||
			call.Answered.Sub(call.Arrived) != 8*time.Millisecond || call.Start >= call.End || call.End >= mark || call.Spans(mark) {
			t.Errorf("call %+v, mark %d", call, mark)
		}
		if st := s.Status(); st.PeakRows != 3 || st.Rows != 0 || st.Connections != 1 || st.Accepted != 1 || st.PeakRowsOf[1] != 3 {
			t.Errorf("status %+v", st)
		}
	})
}

// With jitter, answers overtake each other, but each still depends only on its row.
func TestJitterShufflesAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Jitter: time.Second, Seed: 3})
		c := dial(t, s)
		ready(t, s)
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				resp, err := c.ModelInfer(t.Context(), request("", float32(i)))
				if err != nil || values(resp)[0] != float32(2*i) {
					t.Errorf("row %d: %v, %v", i, resp, err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
		}
		wg.Wait()
		if slices.IsSorted(order) {
			t.Errorf("20 answers with a jitter of 1 s came in order %v", order)
		}
	})
}

func TestBlockReleaseAndWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{})
		c := dial(t, s)
		ready(t, s)
		s.Block()
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				if _, err := c.ModelInfer(t.Context(), request("", float32(i), 0)); err != nil {
					t.Error(err)
				}
			})
		}
		st, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Blocked == 3 })
		if err != nil || st.Rows != 6 || st.Answered != 0 {
			t.Errorf("status %+v, %v", st, err)
		}
		mark := s.Mark()
		s.Release()
		wg.Wait()
		for _, call := range s.Log() {
			if !call.Spans(mark) {
				t.Errorf("a blocked call does not span the mark: %+v", call)
			}
		}
	})
}

func TestKillAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: time.Second})
		c := dial(t, s)
		ready(t, s)
		failed := make(chan error)
		go func() {
			_, err := c.ModelInfer(t.Context(), request("", 1))
			failed <- err
		}()
		if _, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Calls == 1 }); err != nil {
			t.Fatal(err)
		}
		s.Kill()
		if err := <-failed; oip.Parse(err).Code != codes.Unavailable || oip.Parse(err).Reason != "" {
			t.Errorf("a killed call: %v; want a transport failure", err)
		}
		if st := s.Status(); st.Connections != 0 || st.Rows != 0 {
			t.Errorf("after Kill %+v", st)
		}
		if _, err := c.ModelInfer(t.Context(), request("", 1)); oip.Parse(err).Code != codes.Unavailable {
			t.Errorf("while it is down: %v", err)
		}
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
		ready(t, s)
		if resp, err := c.ModelInfer(t.Context(), request("", 4), grpc.WaitForReady(true)); err != nil || values(resp)[0] != 8 {
			t.Errorf("after Restart: %v, %v", resp, err)
		}
		if n := len(s.Dials()); n < 2 || n != s.Status().Dials {
			t.Errorf("%d dials", n)
		}
	})
}

func TestStopDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: time.Second})
		c := dial(t, s)
		ready(t, s)
		done := make(chan error)
		go func() {
			_, err := c.ModelInfer(t.Context(), request("", 1))
			done <- err
		}()
		if _, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Calls == 1 }); err != nil {
			t.Fatal(err)
		}
		go s.Stop()
		synctest.Wait()
		d := oip.Parse(second(c.ModelInfer(t.Context(), request("", 2))))
		if d.Code != codes.Unavailable || d.Reason != oip.ReasonDraining || d.RetryAfter == 0 {
			t.Errorf("while it drains: %+v", d)
		}
		if err := <-done; err != nil {
			t.Errorf("an admitted call: %v", err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestDropConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Faults: []mock.Fault{{Kind: mock.Drop, First: 2}}})
		c := dial(t, s)
		ready(t, s)
		if _, err := c.ModelInfer(t.Context(), request("", 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ModelInfer(t.Context(), request("", 1)); oip.Parse(err).Code != codes.Unavailable {
			t.Errorf("a call whose connection is dropped: %v", err)
		}
		if _, err := c.ModelInfer(t.Context(), request("", 1), grpc.WaitForReady(true)); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		if st := s.Status(); st.Accepted != 2 || st.Connections != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// Every row of the error table can be provoked.
func TestErrorTable(t *testing.T) {
	fault := func(s string) sidecartest.Script {
		f, err := mock.ParseFault(s)
		if err != nil {
			t.Fatal(err)
		}
		return sidecartest.Script{Faults: []mock.Fault{f}}
	}
	backendFault := func(s string) sidecartest.Script {
		script := fault(s)
		script.Faults, script.BackendFaults = nil, script.Faults
		return script
	}
	ask := request("id", 13)
	other := func(change func(*oip.ModelInferRequest)) *oip.ModelInferRequest {
		r := request("id", 13)
		change(r)
		return r
	}
	for _, c := range []struct {
		name   string
		script sidecartest.Script
		req    *oip.ModelInferRequest
		code   codes.Code
		reason string
		retry  bool // has a RetryInfo
	}{
		{"queue full", fault("RESOURCE_EXHAUSTED/QUEUE_FULL@1,retry=5ms"), ask, codes.ResourceExhausted, oip.ReasonQueueFull, true},
		{"memory pressure", backendFault("RESOURCE_EXHAUSTED/MEMORY_PRESSURE@1,retry=5ms"), ask, codes.ResourceExhausted, oip.ReasonMemoryPressure, true},
		{"too large", fault("RESOURCE_EXHAUSTED@1"), ask, codes.ResourceExhausted, "", false},
		{"really too large", sidecartest.Script{MaxMessageSize: 10}, ask, codes.ResourceExhausted, "", false},
		{"draining", fault("UNAVAILABLE/DRAINING@1,retry=5ms"), ask, codes.Unavailable, oip.ReasonDraining, true},
		{"loading", sidecartest.Script{LoadTime: time.Hour}, ask, codes.Unavailable, oip.ReasonModelLoading, true},
		{"unavailable", fault("UNAVAILABLE@1"), ask, codes.Unavailable, "", false},
		{"connection lost", fault("drop@1"), ask, codes.Unavailable, "", false},
		{"crash", fault("crash@1"), ask, codes.Unavailable, "", false},
		{"queue timeout", fault("DEADLINE_EXCEEDED/QUEUE_TIMEOUT@1"), ask, codes.DeadlineExceeded, oip.ReasonQueueTimeout, false},
		{"the caller's deadline", fault("hang@1"), ask, codes.DeadlineExceeded, "", false},
		{"cancelled", fault("CANCELLED@1"), ask, codes.Canceled, "", false},
		{"bad tensor", sidecartest.Script{}, other(func(r *oip.ModelInferRequest) { r.Inputs[0].Datatype = "INT32" }), codes.InvalidArgument, oip.ReasonBadTensor, false},
		{"shape", sidecartest.Script{}, other(func(r *oip.ModelInferRequest) { r.Inputs[0].Shape = []int64{1, 2} }), codes.InvalidArgument, oip.ReasonShapeMismatch, false},
		{"unknown input", sidecartest.Script{}, other(func(r *oip.ModelInferRequest) { r.Inputs[0].Name = "z" }), codes.InvalidArgument, oip.ReasonUnknownInput, false},
		{"bad row", backendFault("bad@row=13"), ask, codes.InvalidArgument, oip.ReasonBadTensor, false},
		{"model not found", sidecartest.Script{}, other(func(r *oip.ModelInferRequest) { r.ModelName = "z" }), codes.NotFound, oip.ReasonModelNotFound, false},
		{"load failed", sidecartest.Script{LoadError: "no such file"}, ask, codes.FailedPrecondition, oip.ReasonModelLoadFailed, false},
		{"version", sidecartest.Script{}, other(func(r *oip.ModelInferRequest) { r.ModelVersion = "7" }), codes.NotFound, oip.ReasonVersionMismatch, false},
		{"feature", sidecartest.Script{}, other(func(r *oip.ModelInferRequest) {
			r.Parameters = map[string]*oip.InferParameter{"sequence_id": {ParameterChoice: &oip.InferParameter_StringParam{StringParam: "s"}}}
		}), codes.Unimplemented, oip.ReasonUnsupportedFeature, false},
		{"backend", backendFault("INTERNAL/BACKEND_ERROR@1"), ask, codes.Internal, oip.ReasonBackendError, false},
		{"backend panic", backendFault("panic@1"), ask, codes.Internal, oip.ReasonBackendError, false},
		{"handler panic", fault("panic@1"), ask, codes.Internal, oip.ReasonBackendError, false},
		{"bad output", backendFault("short@1"), ask, codes.DataLoss, oip.ReasonBadOutput, false},
		{"unauthenticated", fault("UNAUTHENTICATED@1"), ask, codes.Unauthenticated, "", false},
		{"permission", fault("PERMISSION_DENIED@1"), ask, codes.PermissionDenied, "", false},
		{"unknown", fault("UNKNOWN@1"), ask, codes.Unknown, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sidecartest.Start(t, c.script)
				client := dial(t, s)
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := client.ModelInfer(ctx, c.req)
				d := oip.Parse(err)
				if d.Code != c.code || d.Reason != c.reason || (d.RetryAfter > 0) != c.retry {
					t.Errorf("got %v; details %+v", err, d)
				}
			})
		})
	}
}

func TestFailNextAndShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{})
		c := dial(t, s)
		ready(t, s)
		if err := s.FailNext(codes.Internal, "", 2); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			_, err := c.ModelInfer(t.Context(), request("", 1))
			if failed := oip.Parse(err).Code == codes.Internal; failed != (i < 2) {
				t.Errorf("call %d: %v", i, err)
			}
		}
		if err := s.Fail(mock.Fault{Kind: mock.Short}); err != nil {
			t.Fatal(err)
		}
		if resp, err := c.ModelInfer(t.Context(), request("", 1, 2, 3)); err != nil || !slices.Equal(values(resp), []float32{2, 4}) {
			t.Errorf("a short answer: %v, %v", resp, err)
		}
		if err := s.Fail(mock.Fault{Error: backend.Error{Code: codes.OK}}); err == nil {
			t.Error("a failure with code OK was accepted")
		}
	})
}

func TestRealEndpoints(t *testing.T) {
	for i, where := range []string{"unix://" + shortDir(t) + "/s.sock", "127.0.0.1:0"} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s := sidecartest.StartAt(t, sidecartest.Script{}, where)
			ready(t, s)
			for range 2 {
				c := dial(t, s)
				if resp, err := c.ModelInfer(t.Context(), request("", 4), grpc.WaitForReady(true)); err != nil || values(resp)[0] != 8 {
					t.Fatalf("%s: %v, %v", s.Endpoint(), resp, err)
				}
				at := s.Endpoint()
				s.Kill()
				if err := s.Restart(); err != nil {
					t.Fatal(err)
				}
				ready(t, s)
				if s.Endpoint() != at {
					t.Errorf("after a restart it is at %s, not %s", s.Endpoint(), at)
				}
			}
		})
	}
}
