package server_test

import (
	"context"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/tensor"
)

func TestMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{})
		c := r.caller()
		meta, err := c.ModelMetadata(t.Context(), &oip.ModelMetadataRequest{Name: "m", Version: "1"})
		if err != nil {
			t.Fatal(err)
		}
		sig, err := oip.SignatureOf(meta, "")
		if err != nil || sig.String() != "m (batched): inputs x FP32[1]; outputs y FP32[1]" {
			t.Errorf("signature %v, %v", sig.String(), err)
		}
		if live, err := c.ServerLive(t.Context(), &oip.ServerLiveRequest{}); err != nil || !live.Live {
			t.Errorf("live: %v, %v", live, err)
		}
		if m, err := c.ServerMetadata(t.Context(), &oip.ServerMetadataRequest{}); err != nil || m.Name != server.ServerName {
			t.Errorf("server metadata: %v, %v", m, err)
		}
		if ready, err := c.ModelReady(t.Context(), &oip.ModelReadyRequest{Name: "m"}); err != nil || !ready.Ready {
			t.Errorf("model ready: %v, %v", ready, err)
		}
		_, err = c.ModelMetadata(t.Context(), &oip.ModelMetadataRequest{Name: "n"})
		if d := oip.Parse(err); d.Code != codes.NotFound || d.Reason != oip.ReasonModelNotFound || !strings.Contains(d.Message, `["m"]`) {
			t.Errorf("a model that is not there: %v", err)
		}
		_, err = c.ModelMetadata(t.Context(), &oip.ModelMetadataRequest{Name: "m", Version: "2"})
		if d := oip.Parse(err); d.Code != codes.NotFound || d.Reason != oip.ReasonVersionMismatch {
			t.Errorf("another version: %v", err)
		}
	})
}

// Two inputs in any order, typed or raw; outputs by choice; BYTES; ids.
func TestRequestForms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{MaxBatch: 2}, mock.Config{Inputs: []tensor.Spec{
			{Name: "a", DType: tensor.Int16, Row: tensor.Shape{2}}, {Name: "s", DType: tensor.Bytes, Row: tensor.Shape{}}}})
		c := r.caller()
		s, a := input("s", "BYTES", 3), input("a", "INT16", 3, 2)
		s.Contents = &oip.InferTensorContents{BytesContents: [][]byte{[]byte("x"), []byte("yz"), nil}}
		a.Contents = &oip.InferTensorContents{IntContents: []int32{1, 2, 3, 4, 5, -6}}
		req := &oip.ModelInferRequest{ModelName: "m", Id: "seven", Inputs: []*oip.ModelInferRequest_InferInputTensor{s, a}}
		// Three rows run as two batches of at most two, and come back as one answer.
		resp, err := c.ModelInfer(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		meta, err := c.ModelMetadata(t.Context(), &oip.ModelMetadataRequest{Name: "m"})
		if err != nil {
			t.Fatal(err)
		}
		sig, err := oip.SignatureOf(meta, "")
		if err != nil {
			t.Fatal(err)
		}
		rows := tensor.NewRows(&sig)
		if err := oip.FillRows(rows, resp, 3); err != nil {
			t.Fatal(err)
		}
		if resp.Id != "seven" || string(rows.Output(1).BytesAt(1, 0)) != "yzyz" || len(rows.Output(1).BytesAt(2, 0)) != 0 || rows.Output(0).Int(2, 1) != -12 {
			t.Errorf("answer %v", resp)
		}
		req.Outputs = []*oip.ModelInferRequest_InferRequestedOutputTensor{{Name: "y_s"}}
		if resp, err = c.ModelInfer(t.Context(), req); err != nil || len(resp.Outputs) != 1 || resp.Outputs[0].Name != "y_s" {
			t.Errorf("one output: %v, %v", resp, err)
		}
	})
}

func TestBadRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{QueueRows: 100}, mock.Config{})
		c := r.caller()
		for _, k := range []struct {
			name   string
			change func(*oip.ModelInferRequest)
			code   codes.Code
			reason string
			says   string
		}{
			{"no inputs", func(q *oip.ModelInferRequest) { q.Inputs, q.RawInputContents = nil, nil }, codes.InvalidArgument, oip.ReasonBadTensor, "each of x FP32[1] once"},
			{"unknown input", func(q *oip.ModelInferRequest) { q.Inputs[0].Name = "z" }, codes.InvalidArgument, oip.ReasonUnknownInput, `no input "z"; its inputs are x FP32[1]`},
			{"twice", func(q *oip.ModelInferRequest) { q.Inputs = append(q.Inputs, q.Inputs[0]) }, codes.InvalidArgument, oip.ReasonBadTensor, "2 inputs"},
			{"unknown output", func(q *oip.ModelInferRequest) {
				q.Outputs = []*oip.ModelInferRequest_InferRequestedOutputTensor{{Name: "z"}}
			}, codes.InvalidArgument, oip.ReasonBadTensor, `no output "z"; its outputs are y FP32[1]`},
			{"datatype", func(q *oip.ModelInferRequest) { q.Inputs[0].Datatype = "FP64" }, codes.InvalidArgument, oip.ReasonBadTensor, "datatype FP64; the model takes x FP32[1]"},
			{"no shape", func(q *oip.ModelInferRequest) { q.Inputs[0].Shape = nil }, codes.InvalidArgument, oip.ReasonShapeMismatch, "shape []; the model takes [-1,1]"},
			{"no rows", func(q *oip.ModelInferRequest) { q.Inputs[0].Shape[0] = 0 }, codes.InvalidArgument, oip.ReasonShapeMismatch, "at least one row"},
			{"negative", func(q *oip.ModelInferRequest) { q.Inputs[0].Shape[0] = -1 }, codes.InvalidArgument, oip.ReasonShapeMismatch, "[-1,1]"},
			{"row shape", func(q *oip.ModelInferRequest) { q.Inputs[0].Shape = []int64{1, 2} }, codes.InvalidArgument, oip.ReasonShapeMismatch, "shape [1,2]; the model takes [-1,1]"},
			{"bytes", func(q *oip.ModelInferRequest) { q.RawInputContents[0] = q.RawInputContents[0][:5] }, codes.InvalidArgument, oip.ReasonBadTensor, "5 bytes; FP32[2,1] has 8"},
			{"raw and typed", func(q *oip.ModelInferRequest) {
				q.Inputs[0].Contents = &oip.InferTensorContents{Fp32Contents: []float32{1}}
			}, codes.InvalidArgument, oip.ReasonBadTensor, "one or the other"},
			{"too many rows", func(q *oip.ModelInferRequest) { *q = *ask(sequence(0, 101)...) }, codes.ResourceExhausted, "", "larger than max (100 rows)"},
			{"absurdly many", func(q *oip.ModelInferRequest) { q.Inputs[0].Shape[0] = math.MaxInt64 }, codes.ResourceExhausted, "", "larger than max"},
		} {
			q := ask(1, 2)
			q.Id = "id"
			k.change(q)
			_, err := c.ModelInfer(t.Context(), q)
			d := oip.Parse(err)
			if d.Code != k.code || d.Reason != k.reason || !strings.Contains(d.Message, k.says) {
				t.Errorf("%s: %v (%+v), want %v %s: %s", k.name, err, d, k.code, k.reason, k.says)
			}
			if d.Reason != "" && (d.Metadata[oip.MetaModel] != "m" || d.Metadata[oip.MetaRequestID] != "id") {
				t.Errorf("%s: metadata %v", k.name, d.Metadata)
			}
		}
		if runs, _ := r.model.Runs(); runs != 0 {
			t.Errorf("%d of them ran", runs)
		}
	})
}

// While the model is busy, the requests of all callers gather into batches. Each caller gets its
// own rows.
func TestBatchesAcrossCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{MaxBatch: 64}, mock.Config{Latency: 10 * time.Millisecond})
		var wg sync.WaitGroup
		for k := range 4 {
			c := r.caller()
			for i := range 8 {
				wg.Go(func() {
					vs := sequence(100*k+10*i, 1+i%3)
					resp, err := c.ModelInfer(t.Context(), ask(vs...))
					doubled(t, resp, err, vs...)
				})
			}
		}
		wg.Wait()
		if runs, rows := r.model.Runs(); runs > 3 || rows != 4*(3*1+3*2+2*3) {
			t.Errorf("%d rows in %d runs; want at most 3", rows, runs)
		}
		if n := r.srv.Connections(); n != 4 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestRowsOfOtherShapesAndParametersRunApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{Latency: 10 * time.Millisecond, Function: "sum",
			Inputs: []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{-1}}}})
		c := r.caller()
		var wg sync.WaitGroup
		send := func(parameter string, vs ...float32) {
			wg.Go(func() {
				q := ask(vs...)
				q.Inputs[0].Shape = []int64{1, int64(len(vs))}
				if parameter != "" {
					q.Parameters = map[string]*oip.InferParameter{"p": {ParameterChoice: &oip.InferParameter_StringParam{StringParam: parameter}}}
				}
				var want float64
				for _, v := range vs {
					want += float64(v)
				}
				resp, err := c.ModelInfer(t.Context(), q)
				if err != nil || math.Float64frombits(binary.LittleEndian.Uint64(resp.RawOutputContents[0])) != want {
					t.Errorf("%v: %v, %v", vs, resp, err)
				}
			})
		}
		send("", 1) // makes it busy
		time.Sleep(time.Millisecond)
		for range 3 {
			send("", 1)
			send("", 1, 2)
			send("a", 1)
			send("b", 1)
		}
		wg.Wait()
		if runs, _ := r.model.Runs(); runs != 5 {
			t.Errorf("%d runs, want 1 + one for each shape and parameter", runs)
		}
	})
}

func row(v float64) *float64 { return &v }

// One bad row among the requests of four callers: the error names it, whether the backend does or
// not, and other callers do not notice.
func TestPoisonRowIsNamed(t *testing.T) {
	for name, fault := range map[string]mock.Fault{
		"named":     {Kind: mock.BadRow, Row: row(17)},
		"not named": {Row: row(17), Error: backend.Error{Code: codes.InvalidArgument, Reason: oip.ReasonBadTensor}},
		"panic":     {Row: row(17), Kind: mock.Panic},
		"short":     {Row: row(17), Kind: mock.Short},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := serve(t, server.Config{}, mock.Config{Latency: time.Millisecond, Faults: []mock.Fault{fault}})
				var wg sync.WaitGroup
				for k := range 4 {
					c := r.caller()
					wg.Go(func() {
						vs := sequence(1000*k, 64)
						resp, err := c.ModelInfer(t.Context(), ask(vs...))
						if k > 0 {
							doubled(t, resp, err, vs...)
							return
						}
						d := oip.Parse(err)
						code, reason := codes.InvalidArgument, oip.ReasonBadTensor
						switch fault.Kind {
						case mock.Panic:
							code, reason = codes.Internal, oip.ReasonBackendError
						case mock.Short:
							code, reason = codes.DataLoss, oip.ReasonBadOutput
						}
						if d.Code != code || d.Reason != reason || !slices.Equal(d.BadRows, []int{17}) || d.Violations[0].Field != "inputs[x].rows[17]" {
							t.Errorf("%v; details %+v", err, d)
						}
					})
				}
				wg.Wait()
			})
		})
	}
}

// Rows fail in two ways: the error names those that fail in the first way. The caller learns of the
// other rows when it sends the rest.
func TestRowsThatFailDifferently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{Faults: []mock.Fault{
			{Row: row(3), Error: backend.Error{Code: codes.Internal, Reason: oip.ReasonBackendError, Message: "three"}},
			{Row: row(6), Error: backend.Error{Code: codes.Internal, Reason: oip.ReasonBackendError, Message: "six"}},
			{Row: row(5), Error: backend.Error{Code: codes.InvalidArgument, Reason: oip.ReasonBadTensor, Message: "five"}},
		}})
		_, err := r.caller().ModelInfer(t.Context(), ask(sequence(0, 8)...))
		if d := oip.Parse(err); d.Code != codes.Internal || !slices.Equal(d.BadRows, []int{3, 6}) || !strings.Contains(d.Message, "row 3, 6 of 8") {
			t.Errorf("%v; details %+v", err, d)
		}
	})
}

func TestQueueBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{QueueRows: 4, QueueTimeout: time.Second, RetryDelay: 30 * time.Millisecond},
			mock.Config{Latency: 3 * time.Second})
		c := r.caller()
		var wg sync.WaitGroup
		outcome := func(vs ...float32) (d oip.Details) {
			_, err := c.ModelInfer(t.Context(), ask(vs...))
			return oip.Parse(err)
		}
		wg.Go(func() { // runs
			if d := outcome(1); d.Code != codes.OK {
				t.Errorf("%+v", d)
			}
		})
		time.Sleep(time.Millisecond)
		began := time.Now()
		wg.Go(func() { // waits for as long as allowed
			if d := outcome(2, 3, 4); d.Code != codes.DeadlineExceeded || d.Reason != oip.ReasonQueueTimeout || time.Since(began) != time.Second {
				t.Errorf("after %v: %+v", time.Since(began), d)
			}
		})
		time.Sleep(time.Millisecond)
		if d := outcome(5, 6); d.Code != codes.ResourceExhausted || d.Reason != oip.ReasonQueueFull || d.RetryAfter != 30*time.Millisecond {
			t.Errorf("no room: %+v", d)
		}
		wg.Go(func() { // fits
			if d := outcome(7); d.Reason != oip.ReasonQueueTimeout {
				t.Errorf("%+v", d)
			}
		})
		wg.Wait()
		if runs, rows := r.model.Runs(); runs != 1 || rows != 1 {
			t.Errorf("%d runs of %d rows; requests that timed out must not run", runs, rows)
		}
		if d := outcome(1, 2, 3, 4); d.Code != codes.OK {
			t.Errorf("the room is not returned: %+v", d)
		}
	})
}

func TestQueueBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{QueueBytes: 10}, mock.Config{Latency: time.Second})
		c := r.caller()
		var wg sync.WaitGroup
		var mu sync.Mutex
		refused := 0
		for i := range 3 {
			wg.Go(func() {
				// 20 bytes: passes alone
				_, err := c.ModelInfer(t.Context(), ask(sequence(0, 5)...))
				if oip.Parse(err).Reason == oip.ReasonQueueFull {
					mu.Lock()
					refused++
					mu.Unlock()
				} else if err != nil {
					t.Error(err)
				}
			})
			time.Sleep(time.Duration(i+1) * time.Millisecond)
		}
		wg.Wait()
		if refused != 1 { // the first runs, the second waits, the third has no room
			t.Errorf("%d of 3 were refused", refused)
		}
	})
}

// A request whose caller has gone, or whose deadline has passed, never runs. A batch whose callers
// have all gone is cancelled.
func TestCallersThatGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{Faults: []mock.Fault{{Kind: mock.Hang, First: 1}}})
		c := r.caller()
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(3-i)*time.Second)
				defer cancel()
				began := time.Now()
				_, err := c.ModelInfer(ctx, ask(float32(i)))
				if oip.Parse(err).Code != codes.DeadlineExceeded || time.Since(began) != time.Duration(3-i)*time.Second {
					t.Errorf("call %d: %v after %v", i, err, time.Since(began))
				}
			})
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		synctest.Wait()
		if runs, rows := r.model.Runs(); runs != 1 || rows != 1 {
			t.Errorf("%d runs of %d rows", runs, rows)
		}
		resp, err := c.ModelInfer(t.Context(), ask(4)) // the hung batch was cancelled
		doubled(t, resp, err, 4)
	})
}

// badModel answers with whatever the test sets.
type badModel struct {
	*mock.Model
	answer func(rows int64) ([]tensor.Tensor, error)
}

func (b badModel) Run(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
	return b.answer(in[0].Shape[0])
}

func TestBadOutputs(t *testing.T) {
	good := func(n int64) tensor.Tensor {
		return tensor.Tensor{Name: "y", DType: tensor.FP32, Shape: tensor.Shape{n, 1}, Raw: make([]byte, 4*n)}
	}
	for name, answer := range map[string]func(n int64) []tensor.Tensor{
		"none":     func(int64) []tensor.Tensor { return nil },
		"two":      func(n int64) []tensor.Tensor { return []tensor.Tensor{good(n), good(n)} },
		"name":     func(n int64) []tensor.Tensor { y := good(n); y.Name = "z"; return []tensor.Tensor{y} },
		"datatype": func(n int64) []tensor.Tensor { y := good(n); y.DType = tensor.Int32; return []tensor.Tensor{y} },
		"rows":     func(n int64) []tensor.Tensor { return []tensor.Tensor{good(n + 1)} },
		"no shape": func(n int64) []tensor.Tensor { y := good(n); y.Shape = nil; return []tensor.Tensor{y} },
		"row shape": func(n int64) []tensor.Tensor {
			y := good(n)
			y.Shape = tensor.Shape{n, 1, 1}
			return []tensor.Tensor{y}
		},
		"bytes": func(n int64) []tensor.Tensor { y := good(n); y.Raw = y.Raw[1:]; return []tensor.Tensor{y} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, err := mock.New(mock.Config{})
				if err != nil {
					t.Fatal(err)
				}
				r := serveModel(t, server.Config{}, badModel{m, func(n int64) ([]tensor.Tensor, error) { return answer(n), nil }})
				_, err = r.caller().ModelInfer(t.Context(), ask(1, 2))
				if d := oip.Parse(err); d.Code != codes.DataLoss || d.Reason != oip.ReasonBadOutput {
					t.Errorf("%v", err)
				}
			})
		})
	}
}
