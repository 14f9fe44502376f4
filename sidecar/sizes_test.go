package sidecar

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

func TestSizes(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSizes(1000)
	want := func(what string, size int) {
		t.Helper()
		if s.now != size {
			t.Errorf("%s: %d bytes; want %d", what, s.now, size)
		}
	}
	// Nothing is learnt from a refusal alone, nor from a small request that passes.
	s.refused(800)
	s.passed(3, false, now)
	want("a refusal", 1000)
	// The first part that passes sets the limit.
	s.refused(400)
	if s.passed(200, true, now) != true {
		t.Error("passed did not report the lower limit")
	}
	want("a part has passed", 200)
	// The limit is raised step by step, and not earlier. A further refusal makes the steps
	// longer.
	s.passed(200, false, now.Add(firstStep-1))
	want("too early", 200)
	now = now.Add(firstStep)
	s.passed(50, false, now)
	want("only a small request passed", 200)
	s.passed(200, false, now)
	want("a step", 400)
	s.refused(390)
	s.passed(195, true, now)
	want("the size is as before", 200)
	s.passed(200, false, now.Add(2*firstStep-1))
	want("too early again", 200)
	for range 3 {
		now = now.Add(2 * firstStep)
		s.passed(s.now, false, now)
	}
	want("all of it", 1000)
	if s.step != firstStep {
		t.Errorf("steps of %v", s.step)
	}
	// One record with too large an answer costs nothing in the end: other parts of that size
	// pass.
	for bytes := 500; bytes > 2; bytes /= 2 {
		s.refused(bytes)
		s.passed(bytes/2, true, now)
	}
	want("one record", 1000)
	// A server that lowers its bound is believed after a while.
	for range 10 {
		s.refused(100)
		s.passed(50, true, now)
		if s.refused(50); s.now == 50 {
			break
		}
		s.passed(25, true, now)
	}
	if s.now > 100 {
		t.Errorf("it is still %d bytes", s.now)
	}
}

func TestDoubt(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSizes(1000)
	for range 3 {
		if s.doubt(500, true) {
			t.Error("halves were tried while other requests might have been the reason")
		}
	}
	s.passed(10, false, now)
	if !s.doubt(500, true) {
		t.Error("smaller ones pass")
	}
	for i := range 2 {
		if s.doubt(500, false) != (i == 1) {
			t.Errorf("refusal %d, with nothing else in flight", i)
		}
	}
	s.inVain()
	for i := range 4 {
		if s.doubt(500, false) != (i == 3) {
			t.Errorf("refusal %d, after a trial in vain", i)
		}
	}
	s.doubt(500, false)
	s.passed(500, false, now)
	for i := range 2 {
		if s.doubt(500, false) != (i == 1) {
			t.Errorf("refusal %d, after one of that size has passed", i)
		}
	}
}

// One record whose answer is larger than the client accepts fails, as a failure of the model. All
// other requests stay as large as they were, or soon are again.
func TestOneAnswerIsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.answer = func(resp *oip.ModelInferResponse) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, row := range p.log[len(p.log)-1] {
				if row[0] == 77 {
					resp.Outputs = append(resp.Outputs, &oip.ModelInferResponse_InferOutputTensor{Name: "more", Datatype: "UINT8", Shape: []int64{1 << 20}})
					resp.RawOutputContents = append(resp.RawOutputContents, make([]byte, 1<<20))
				}
			}
		}
		cfg := p.config()
		cfg.MaxMessageSize, cfg.Window = 1<<18, 1
		r := newRecorder(t)
		c := r.open(cfg)
		r.call(ramp(256)...)
		r.await()
		r.check(77)
		err := r.outcome[77].Err
		if !errors.Is(err, ErrTooLarge) || async.VerdictOf(err) != (async.Verdict{Class: async.Backend}) {
			t.Errorf("%v: %+v", err, async.VerdictOf(err))
		}
		for range 3 {
			time.Sleep(firstStep)
			for v := range ramp(256) {
				r.call(numbers{float32(1000 + v)})
			}
			r.await()
		}
		if c.sizes.now != DefaultMaxBytes {
			t.Errorf("%d bytes a request", c.sizes.now)
		}
	})
}
