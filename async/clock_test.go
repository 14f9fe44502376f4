package async_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// Time that other code takes must not count against records.

// TestAnswerInTimeBeforeAdmission: an answer that came in time counts as in time, even if records
// are admitted before the task looks at it (A15).
func TestAnswerInTimeBeforeAdmission(t *testing.T) {
	for name, admit := range map[string]func(*rig){
		"record":    func(r *rig) { r.admit(2) },
		"watermark": func(r *rig) { r.op.Watermark(async.Watermark{Time: 2}) },
	} {
		inEveryOrder(t, "15 a "+name+" comes before the look", func(t *testing.T, order async.Order) {
			r := newRig(t, order, async.Config{Timeout: 100 * time.Millisecond}, nil)
			r.admit(1)
			r.step()
			time.Sleep(50 * time.Millisecond)
			r.double(1)
			time.Sleep(time.Second)
			admit(r)
			if r.step(); r.err != nil || len(r.out) == 0 || r.out[0] != "2@1" {
				t.Fatalf("out %v, %v", r.out, r.err)
			}
		})
	}
}

// TestMapWithSlowBody: the body takes longer than the timeout, the answers do not.
func TestMapWithSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := func(ctx context.Context, v int) (int, error) {
			time.Sleep(10 * time.Millisecond)
			return 2 * v, ctx.Err()
		}
		n := 0
		for v, err := range async.Map(t.Context(), async.Values(slices.Values(upTo(10))), async.Func(f, 0), async.Config{Capacity: 3, Timeout: time.Second}) {
			if err != nil || v != 2*n {
				t.Fatalf("result %d is %d, %v", n, v, err)
			}
			n++
			time.Sleep(2 * time.Second)
		}
		if n != 10 {
			t.Errorf("%d results", n)
		}
	})
}

// slowTaker is an Emitter that is slow.
type slowTaker struct{ *rig }

func (s slowTaker) Emit(recs []async.Record[int]) {
	time.Sleep(2 * time.Second)
	s.rig.Emit(recs)
}

// TestTimeoutBeginsAfterEmission: a record that waited for its call while results were taken has
// its whole timeout (A7).
func TestTimeoutBeginsAfterEmission(t *testing.T) {
	inEveryOrder(t, "7 slow emission", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{MaxCalls: 1, Timeout: time.Second}, nil)
		r.admit(1, 2)
		r.step()
		r.double(1)
		// 1 leaves, and 2 is called
		if _, err := r.op.Step(time.Now(), 100, slowTaker{r}); err != nil {
			t.Fatal(err)
		}
		if left := time.Until(r.deadlines[2]); left != time.Second {
			t.Errorf("2 has just been called, and has %v left of a second", left)
		}
		time.Sleep(time.Second)
		r.double(2)
		r.step()
		r.want("2@1 4@2")
	})
}

// TestAnswerDuringEmission: while results are taken, an answer within the timeout is in time, and a
// later one is not (A15).
func TestAnswerDuringEmission(t *testing.T) {
	inEveryOrder(t, "15 answered during an emission", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: 3 * time.Second, OnError: async.OnError{Timeout: async.Drop}}, nil)
		r.admit(1, 2, 3)
		r.step()
		time.Sleep(2 * time.Second)
		r.double(1)
		time.AfterFunc(500*time.Millisecond, func() { r.double(2) })
		time.AfterFunc(1500*time.Millisecond, func() { r.double(3) })
		if _, err := r.op.Step(time.Now(), 100, slowTaker{r}); err != nil {
			t.Fatal(err)
		}
		r.step()
		r.want("2@1 4@2")
	})
}

// TestRestoredRecordThatDoesNotFit: while the bytes of a restored record are too many there is
// nothing to do at once.
func TestRestoredRecordThatDoesNotFit(t *testing.T) {
	inEveryOrder(t, "34 restored beyond the bytes", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Capacity: 10, MaxBytes: 8, Barrier: async.Snapshot}, nil)
		r.op.Restore([]async.Record[int]{{Value: 1, Time: 1}, {Value: 2, Time: 2}}, []async.QueuedWatermark{{Before: 1, Mark: async.Watermark{Time: 1}}})
		r.step()
		if r.step(); r.status.More || len(r.calls) != 1 {
			t.Fatalf("%d calls, and more to do: %v", len(r.calls), r.status.More)
		}
		r.double(1)
		r.step() // 1 leaves, 2 is admitted and called
		r.double(2)
		r.op.End()
		r.run(nil)
		r.want("2@1 W1 4@2")
	})
}
