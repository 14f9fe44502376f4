package asynctest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/enum"
)

// Kind says what an Element is.
type Kind uint8

const (
	// Result is one result of a record.
	Result Kind = iota
	// DeadLetter is a record that failed, where Config.OnError says so.
	DeadLetter
	// Watermark is a watermark or idleness.
	Watermark
	// Barrier is the barrier of a checkpoint.
	Barrier
	// End is the end of the stream.
	End
)

var kinds = []string{"result", "dead letter", "watermark", "barrier", "end"}

func (k Kind) String() string { return enum.Name("kind", k, kinds) }

// Element is one thing that left the operator. Kind says which of the other fields is set.
type Element[IN, OUT any] struct {
	Kind Kind
	// At is when it left, in virtual time.
	At time.Time
	// Result, DeadLetter, Watermark or Barrier is set, as Kind says. For End none of them is.
	Result     async.Record[OUT]
	DeadLetter async.Failed[IN]
	Watermark  async.Watermark
	Barrier    int64
}

// String returns a short form. A result is its value, with @ and its event time if it has one
// (4@2). A dead letter is x with the record's value and the class of its failure (x7:timeout). A
// watermark is W with its time (W2); the last one is Wend, and idleness is Widle. A barrier is |
// with its id (|1). The end is end.
func (e Element[IN, OUT]) String() string {
	switch e.Kind {
	case DeadLetter:
		return fmt.Sprintf("x%v:%v", e.DeadLetter.Record.Value, e.DeadLetter.Class)
	case Watermark:
		switch {
		case e.Watermark.Idle:
			return "Widle"
		case e.Watermark.Time == async.EndOfTime:
			return "Wend"
		}
		return fmt.Sprintf("W%d", e.Watermark.Time)
	case Barrier:
		return fmt.Sprintf("|%d", e.Barrier)
	case End:
		return "end"
	}
	if e.Result.Time == async.NoTime {
		return fmt.Sprint(e.Result.Value)
	}
	return fmt.Sprintf("%v@%d", e.Result.Value, e.Result.Time)
}

// Output returns everything that has left, in order. Results and dead letters leave as two streams;
// here each has the place at which its turn came.
func (h *Harness[IN, OUT]) Output() []Element[IN, OUT] {
	h.t.Helper()
	h.settle()
	return slices.Clone(h.out)
}

// Transcript returns everything that has left, in order, in the form of Element.String, separated
// by spaces.
func (h *Harness[IN, OUT]) Transcript() string {
	h.t.Helper()
	h.settle()
	words := make([]string, len(h.out))
	for i, e := range h.out {
		words[i] = e.String()
	}
	return strings.Join(words, " ")
}

// Results returns the results that have left, in order, each with the time, key, split and
// position of its record.
func (h *Harness[IN, OUT]) Results() []async.Record[OUT] {
	h.t.Helper()
	h.settle()
	var recs []async.Record[OUT]
	for i := range h.out {
		if h.out[i].Kind == Result {
			recs = append(recs, h.out[i].Result)
		}
	}
	return recs
}

// Values returns the values of the results that have left, in order.
func (h *Harness[IN, OUT]) Values() []OUT {
	h.t.Helper()
	var vs []OUT
	for _, r := range h.Results() {
		vs = append(vs, r.Value)
	}
	return vs
}

// DeadLetters returns the dead letters that have left, in order.
func (h *Harness[IN, OUT]) DeadLetters() []async.Failed[IN] {
	h.t.Helper()
	h.settle()
	var letters []async.Failed[IN]
	for i := range h.out {
		if h.out[i].Kind == DeadLetter {
			letters = append(letters, h.out[i].DeadLetter)
		}
	}
	return letters
}

// Ended reports whether the input has ended and everything has left.
func (h *Harness[IN, OUT]) Ended() bool {
	h.t.Helper()
	h.settle()
	return h.ended
}

// Err returns the failure of the operator or of the function's Open, or nil if there is none. The
// failure of a record is an *async.RecordError. A failure that the test never asks for with Err
// fails the test.
func (h *Harness[IN, OUT]) Err() error {
	h.t.Helper()
	h.settle()
	h.seen = h.seen || h.err != nil
	return h.err
}

// Stats returns the operator's present numbers.
func (h *Harness[IN, OUT]) Stats() async.Stats {
	h.t.Helper()
	h.settle()
	return h.op.Stats()
}

// Config returns the operator's configuration with every default filled in.
func (h *Harness[IN, OUT]) Config() async.Config { return h.op.Config() }

func (h *Harness[IN, OUT]) add(e Element[IN, OUT]) {
	e.At = time.Now()
	h.out = append(h.out, e)
}

func (h *Harness[IN, OUT]) deadLetters(letters []async.Failed[IN]) {
	for _, f := range letters {
		h.add(Element[IN, OUT]{Kind: DeadLetter, DeadLetter: f})
	}
}

// emitter is the harness as its operator sees it.
type emitter[IN, OUT any] Harness[IN, OUT]

func (e *emitter[IN, OUT]) Emit(recs []async.Record[OUT]) {
	for _, r := range recs {
		(*Harness[IN, OUT])(e).add(Element[IN, OUT]{Kind: Result, Result: r})
	}
}

func (e *emitter[IN, OUT]) Watermark(w async.Watermark) {
	(*Harness[IN, OUT])(e).add(Element[IN, OUT]{Kind: Watermark, Watermark: w})
}
