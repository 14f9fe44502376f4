package asynctest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/async/asynctest"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/tensor"
)

// The tests of this file are what users write. The documents show them word for word.

// lenient answers -1 for a record that takes too long.
type lenient struct {
	asynctest.Manual[string, int]
}

func (*lenient) OnTimeout(async.Call[string]) (async.Outputs[int], error) {
	return async.One(-1), nil
}

func TestSlowAnswerIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := &lenient{}
		h := asynctest.New(t, fn, async.Config{Timeout: 10 * time.Second})

		h.Push("fast", "slow")
		fn.Call("fast").Complete(4)
		h.Advance(10 * time.Second) // "slow" gets no answer
		h.Finish()

		if got := h.Transcript(); got != "4 -1 end" {
			t.Error(got)
		}
	})
}

// A function of the user's own that answers by itself, in virtual time.
func TestLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lookup := async.Func(func(ctx context.Context, word string) (int, error) {
			select {
			case <-time.After(time.Duration(len(word)) * time.Second):
				return len(word), nil
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
		}, 0)
		h := asynctest.New(t, lookup, async.Config{
			Order:   async.Unordered,
			Timeout: 5 * time.Second,
			OnError: async.OnError{Timeout: async.DeadLetter},
		})

		h.Push("four", "eleven chars", "a")
		h.Watermark(7)
		h.Finish()

		if got := h.Transcript(); got != "1 4 xeleven chars:timeout W7 end" {
			t.Error(got)
		}
		for _, letter := range h.DeadLetters() {
			if letter.Attempts != 1 || !errors.Is(letter.Err, async.ErrTimeout) {
				t.Errorf("%+v", letter)
			}
		}
	})
}

// patient decides about retries, and makes results for failed records.
type patient struct {
	asynctest.Manual[string, int]
}

func (*patient) RetryResult(outs async.Outputs[int]) bool { return outs.Len() == 0 }
func (*patient) RetryError(error) bool                    { return false }

func (*patient) Fallback(f async.Failed[string]) (async.Outputs[int], error) {
	return async.One(-f.Attempts), nil
}

func TestRetriesAndFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := &patient{}
		h := asynctest.New(t, fn, async.Config{
			Retry:   async.Retry{Max: 3, Delay: time.Second, Jitter: async.Off},
			OnError: async.OnError{Backend: async.Fallback},
		})

		h.Push("a")
		fn.Call("a").Complete() // no result: worth another attempt
		h.Advance(time.Second - 1)
		if n := len(fn.Calls()); n != 0 {
			t.Errorf("%d calls before the delay was over", n)
		}
		h.Advance(1)
		fn.Call("a").Fail(errors.New("no such word")) // not worth one

		if got := h.Transcript(); got != "-2" {
			t.Error(got)
		}
		if st := h.Stats(); st.Calls != 2 || st.Retries != 1 || st.Fallbacks != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// A checkpoint is taken, the task crashes, and another one goes on from there.
func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fn asynctest.Manual[string, int]
		h := asynctest.New(t, &fn, async.Config{Order: async.Unordered})
		h.Push("a", "bb", "ccc")
		fn.Call("bb").Complete(2)
		h.Barrier(1)
		fn.Call("a").Complete(1) // after the barrier, so it is not in the checkpoint
		if got := h.Transcript(); got != "2 |1 1" {
			t.Error(got)
		}
		state := h.State()
		if err := h.Close(); err != nil {
			t.Error(err)
		}

		again := asynctest.Restore(t, &fn, async.Config{Capacity: 2}, state)
		fn.Answer(func(r async.Record[string]) (async.Outputs[int], error) {
			return async.One(len(r.Value)), nil
		})
		again.Push("dddd")
		again.Finish()
		if got := again.Transcript(); got != "1 3 4 end" {
			t.Error(got)
		}
	})
}

// The user's own codec, with a real client and server between the operator and the model.
func TestCodec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: 5 * time.Millisecond})
		fn := sidecar.NewAsyncFunction(sidecar.Config{
			Endpoint: s.Endpoint(), Dialer: s.Dialer(), Model: s.Model(),
		}, labelled{})
		h := asynctest.New(t, fn, async.Config{
			OnError: async.OnError{BadRecord: async.DeadLetter},
		})

		h.Push(point{"a", 1}, point{"", 2}, point{"c", 3})
		h.Finish()

		if got := h.Values(); !slices.Equal(got, []string{"a=2", "c=6"}) {
			t.Errorf("%q (%v)", got, h.Err())
		}
		if got := h.DeadLetters(); len(got) != 1 || got[0].Record.Position != 1 {
			t.Errorf("%+v", got)
		}
	})
}

// point is a record, and labelled its codec: a point without a name cannot be encoded.
type point struct {
	name string
	x    float32
}

type labelled struct{}

type labelledRow struct{ x, y int }

func (labelled) Bind(sig tensor.Signature) (tensor.RowCodec[point, string], error) {
	x, okX := sig.Input("x")
	y, okY := sig.Output("y")
	if !okX || !okY {
		return nil, fmt.Errorf("the codec takes input x and output y; the model is %s", &sig)
	}
	return labelledRow{x, y}, nil
}

func (r labelledRow) Encode(dst *tensor.Batch, p point) error {
	if p.name == "" {
		return errors.New("a point without a name")
	}
	return tensor.AppendValues(dst.Column(r.x), []float32{p.x})
}

func (r labelledRow) Decode(p point, src *tensor.Rows, i int) (string, error) {
	return fmt.Sprintf("%s=%v", p.name, src.Output(r.y).Number(i, 0)), nil
}

// Outside a harness, and in real time, a Manual is a function like others.
func ExampleManual() {
	var fn asynctest.Manual[string, int]
	fn.Answer(func(r async.Record[string]) (async.Outputs[int], error) {
		return async.One(len(r.Value)), nil
	})
	words := async.Values(slices.Values([]string{"three", "words", "or", "so"}))
	for n, err := range async.Map(context.Background(), words, &fn, async.Config{}) {
		fmt.Println(n, err)
	}
	// Output:
	// 5 <nil>
	// 5 <nil>
	// 2 <nil>
	// 2 <nil>
}
