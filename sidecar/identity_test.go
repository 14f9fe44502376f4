package sidecar

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// An answer that names another request, model or version than the client asked for is not used as a
// result (A64). A server may leave out an id, or make one up.
func TestAnswersAreIdentified(t *testing.T) {
	for _, c := range []struct {
		name, version string // what the job asks for
		answer        func(*oip.ModelInferResponse)
		is            error // nil: the answer is accepted
		class         async.Class
		says          string
	}{
		{"as asked", "1", func(*oip.ModelInferResponse) {}, nil, 0, ""},
		{"nothing named", "1", func(r *oip.ModelInferResponse) { r.Id, r.ModelName, r.ModelVersion = "", "", "" }, nil, 0, ""},
		{"any version", "", func(r *oip.ModelInferResponse) { r.ModelVersion = "7" }, nil, 0, ""},
		{"an id of the server's own", "", func(r *oip.ModelInferResponse) { r.Id = "0c6C2f0e-3b1e-4d9c-8f0a-5a2b7d1e9f00" }, nil, 0, ""},
		{"another request", "", func(r *oip.ModelInferResponse) { r.Id = "op/0.0-77" }, ErrBadOutput, async.Backend, `the answer is to the request "op/0.0-77"`},
		{"some other id", "", func(r *oip.ModelInferResponse) { r.Id = "17" }, ErrBadOutput, async.Backend, "mixes answers up"},
		{"nearly a UUID", "", func(r *oip.ModelInferResponse) { r.Id = "0c6c2f0e-3b1e-4d9c-8f0a-5a2b7d1e9f0g" }, ErrBadOutput, async.Backend, ""},
		{"another model", "", func(r *oip.ModelInferResponse) { r.ModelName = "triple" }, ErrMismatch, async.Permanent, `of the model "triple"`},
		{"another version", "1", func(r *oip.ModelInferResponse) { r.ModelVersion = "2" }, ErrMismatch, async.Permanent, `version "2" of the model, and "1" was asked for`},
		{"a long name", "", func(r *oip.ModelInferResponse) { r.ModelName = strings.Repeat("x", 1<<20) }, ErrMismatch, async.Permanent, "cut; it has"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				p.answer = c.answer
				r := newRecorder(t)
				cfg := p.config()
				cfg.Version, cfg.Window = c.version, 1
				r.open(cfg)
				r.call(ramp(8)...)
				r.await()
				if c.is == nil {
					r.check()
					return
				}
				r.check(0, 1, 2, 3, 4, 5, 6, 7)
				for i := range uint64(8) {
					err := r.outcome[i].Err
					if !errors.Is(err, c.is) || async.VerdictOf(err) != (async.Verdict{Class: c.class}) || !strings.Contains(errText(err), c.says) || len(errText(err)) > 6<<10 {
						t.Errorf("record %d: %.300v", i, err)
					}
				}
				if n := p.sizes(); len(n) > 2 {
					t.Errorf("requests of %v rows; no row was at fault, so the request must not be split", n)
				}
			})
		})
	}
}

// Two answers that are swapped are not used as results.
func TestSwappedAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		last := make(chan *oip.ModelInferResponse, 1)
		var n atomic.Int64
		p.answer = func(resp *oip.ModelInferResponse) {
			if n.Add(1) > 2 {
				return
			}
			select {
			case first := <-last:
				resp.Id, first.Id = first.Id, resp.Id
				resp.RawOutputContents, first.RawOutputContents = first.RawOutputContents, resp.RawOutputContents
				last <- nil
			default:
				last <- resp
				time.Sleep(time.Second)
				<-last
			}
		}
		r := newRecorder(t)
		cfg := p.config()
		cfg.MaxBatch, cfg.Window = 1, 2
		r.open(cfg)
		r.call(ramp(6)...)
		r.await()
		r.check(0, 1)
	})
}

// A server has another name for the model than requests use, also in its metadata. Both names are
// accepted.
func TestModelByItsOwnName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.sig.Model = "double-v2"
		p.answer = func(r *oip.ModelInferResponse) { r.ModelName = "double-v2" }
		r := newRecorder(t)
		r.open(p.config())
		r.call(ramp(3)...)
		r.await()
		r.check()
	})
}

// Without a configured version, any version is accepted. When another version answers, that is
// logged once, and the client asks whether it takes and returns the same tensors.
func TestVersionChangesInMidRun(t *testing.T) {
	for name, other := range map[string]bool{"same tensors": false, "other tensors": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				var version atomic.Int64
				p.answer = func(r *oip.ModelInferResponse) { r.ModelVersion = fmt.Sprint(version.Load()) }
				r := newRecorder(t)
				cfg := p.config()
				var log bytes.Buffer
				cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
				r.open(cfg)
				asked := p.questions()
				for i := range 12 { // the versions alternate
					version.Store(int64(i % 2))
					if sig := *p.signature(); other && i == 1 {
						sig.Inputs = append(sig.Inputs, tensor.Spec{Name: "z", DType: tensor.FP32, Row: tensor.Shape{1}})
						p.replace(sig)
					}
					r.call(numbers{float32(i)})
					synctest.Wait()
				}
				r.await()
				if other {
					r.check(2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
					if err := r.outcome[2].Err; !errors.Is(err, ErrMismatch) || !strings.Contains(errText(err), "input z FP32[1] is new") {
						t.Error(err)
					}
					return
				}
				r.check()
				if said := strings.Count(log.String(), "another version of the model answers"); said != 1 || p.questions() != asked+1 {
					t.Errorf("logged %d times, asked %d times:\n%s", said, p.questions()-asked, log.String())
				}
			})
		})
	}
}
