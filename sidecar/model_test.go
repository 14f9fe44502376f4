package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// A restarted server takes calls before it has its models. Calls wait for the model, and then go on
// if it is unchanged.
func TestRestartedServerLoadsItsModel(t *testing.T) {
	for name, before := range map[string]func() (bool, error){
		"says no": func() (bool, error) { return false, nil },
		"unknown": func() (bool, error) {
			return false, status.Error(codes.NotFound, "Model with name double does not exist.")
		},
		"in its way":  func() (bool, error) { return false, status.Error(codes.Unknown, "Unexpected ModelNotFound") },
		"not at once": func() (bool, error) { return false, status.Error(codes.Unavailable, "Model double is not ready.") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				r := newRecorder(t)
				r.open(p.config())
				p.kill()
				synctest.Wait()
				start := time.Now()
				p.ready = func() (bool, error) {
					if time.Since(start) < 10*time.Second {
						return before()
					}
					return true, nil
				}
				p.start()
				r.call(ramp(3)...)
				r.await()
				r.check()
				if d := time.Since(start); d < 10*time.Second || d > 13*time.Second {
					t.Errorf("answered after %v", d)
				}
				if n := len(p.sizes()); n != 1 {
					t.Errorf("%d requests; the model was missing for all but the last", n)
				}
			})
		})
	}
}

// If the server comes back with another model by the same name, nothing is sent to that model.
func TestRestartedServerHasAnotherModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		r := newRecorder(t)
		r.open(p.config())
		r.call(numbers{1})
		r.await()
		p.kill()
		synctest.Wait()
		p.sig.Outputs = []tensor.Spec{{Name: "z", DType: tensor.FP32, Row: tensor.Shape{1}}}
		p.start()
		r.call(ramp(3)...)
		r.await()
		time.Sleep(time.Minute)
		r.call(numbers{5}) // that does not change later
		r.await()
		r.check(1, 2, 3, 4)
		err := r.outcome[1].Err
		if !errors.Is(err, ErrMismatch) || async.VerdictOf(err) != (async.Verdict{Class: async.Permanent}) {
			t.Errorf("%v", err)
		}
		for _, want := range []string{"another model", "outputs z FP32[1]", "outputs y FP32[1]", "start the job again"} {
			if !strings.Contains(errText(err), want) {
				t.Errorf("%q is not in %q", want, err)
			}
		}
		if n := len(p.sizes()); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// A request reaches a restarted server before the loss was noticed, and finds no model. That is not
// a failure of the record, since the model was there before.
func TestModelGoneInMidRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		r := newRecorder(t)
		r.open(p.config())
		start := time.Now()
		gone := func() bool { d := time.Since(start); return d > time.Second && d < 9*time.Second }
		p.ready = func() (bool, error) { return !gone(), nil }
		p.infer = func(context.Context, *oip.ModelInferRequest, [][]float32) error {
			if gone() {
				return status.Error(codes.NotFound, "Request for unknown model: 'double' is not found")
			}
			return nil
		}
		for _, v := range ramp(20) {
			r.call(v)
			time.Sleep(300 * time.Millisecond)
		}
		r.await()
		r.check()
		if r.held == 0 || !slices.Equal(r.events, []string{"suspend", "resume"}) {
			t.Errorf("%d calls held, events %v", r.held, r.events)
		}
	})
}

// A model that the server does not know is an error at once, unless the server says that it is
// still starting.
func TestOpenUnknownModelOfAStartingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		start := time.Now()
		p.ready = func() (bool, error) { return time.Since(start) > 5*time.Second, nil }
		p.meta = func() error {
			if time.Since(start) > 5*time.Second {
				return nil
			}
			return status.Error(codes.NotFound, "no such model")
		}
		r := newRecorder(t)
		r.open(p.config())
		if d := time.Since(start); d < 5*time.Second || d > 8*time.Second {
			t.Errorf("open after %v", d)
		}
	})
}

// What the metadata leave out comes from the model's configuration, if the server has one.
func TestModelConfiguration(t *testing.T) {
	open := func(t *testing.T, c *oip.ModelConfig, row ...int64) (*channel[numbers, numbers], *peerServer, *recorder) {
		p := newPeer(t, row...)
		p.modelConfig = c
		r := newRecorder(t)
		return r.open(p.config()), p, r
	}
	synctest.Test(t, func(t *testing.T) {
		_, p, r := open(t, &oip.ModelConfig{MaxBatchSize: 3})
		r.call(ramp(12)...)
		r.await()
		r.check()
		for _, n := range p.sizes() {
			if n > 3 {
				t.Errorf("a request of %d rows", n)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c, _, _ := open(t, &oip.ModelConfig{})
		if got := c.sig.String(); got != "double (one row a request): inputs x FP32[-1,1]; outputs y FP32[-1,1]" {
			t.Errorf("a model that does not batch is %s", got)
		}
	})
	for want, cfg := range map[string]*oip.ModelConfig{
		"decoupled":     {MaxBatchSize: 1, ModelTransactionPolicy: &oip.ModelTransactionPolicy{Decoupled: true}},
		"largest batch": {MaxBatchSize: -1},
		"keeps a state": {SchedulingChoice: &oip.ModelConfig_SequenceBatching{SequenceBatching: &oip.ModelSequenceBatching{}}},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t)
			p.modelConfig = cfg
			if err := openErr(t, t.Context(), p.config()); !errors.Is(err, ErrModelUnusable) || !errors.Is(err, ErrPermanent) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Answers that real servers gave, and what they become. The integration suite asserts that the
// servers still answer so.
func TestServersErrors(t *testing.T) {
	text, err := os.ReadFile("testdata/servers.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		Server, Failure string
		Code            codes.Code
		Text            string
		Becomes, Then   string
	}
	if err := json.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]error{
		"too large": ErrTooLarge, "overloaded": ErrOverloaded, "not ready": ErrNotReady, "unreachable": ErrUnreachable,
		"bad record": ErrBadRecord, "timeout": ErrTimeout, "backend": ErrBackend, "model not found": ErrModelNotFound,
		"unsupported": ErrUnsupported,
	}
	actions := map[string]action{"fail": failRows, "hold": holdRows, "lost": lostRows, "find the row": findRow, "split": splitRows}
	servers := map[string]int{}
	for _, row := range rows {
		if row.Code == codes.OK {
			continue
		}
		kind, do := kinds[row.Becomes], actions[row.Then]
		if _, ok := actions[row.Then]; kind == nil || !ok {
			t.Fatalf("%+v: unknown meaning", row)
		}
		servers[row.Server]++
		f := (&peerName{endpoint: "h:1", model: "m"}).understand(status.Error(row.Code, row.Text), "", nil)
		if f.kind != kind || f.do != do {
			t.Errorf("%s, %s: %v, action %d; want %q, %q", row.Server, row.Failure, f.Error, f.do, row.Becomes, row.Then)
		}
	}
	for _, s := range []string{"triton", "mlserver", "kserve"} {
		if servers[s] < 10 {
			t.Errorf("%d failures of %s", servers[s], s)
		}
	}
}
