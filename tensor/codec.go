package tensor

import (
	"errors"
	"fmt"
)

// Codec turns records into rows for a model, and the model's rows into results. All subtasks of a
// job share it: it must be safe for concurrent use.
type Codec[IN, OUT any] interface {
	// Bind is called once for each subtask, with the model's own names, datatypes and shapes. If
	// they do not suit the codec, Bind returns an error that should show both sides.
	Bind(Signature) (RowCodec[IN, OUT], error)
}

// RowCodec encodes and decodes rows for one model. One goroutine at a time calls Encode. Any number
// of goroutines may call Decode at once, also while Encode runs.
type RowCodec[IN, OUT any] interface {
	// Encode appends one row to every column of dst. If it fails or panics, the row is removed and
	// only this record fails. A record that is tried again is encoded again.
	Encode(dst *Batch, in IN) error
	// Decode makes the result of the record in from row i of src. src is valid until Decode
	// returns. The error counts as the record's fault, unless it wraps ErrAnswer.
	Decode(in IN, src *Rows, i int) (OUT, error)
}

// ErrAnswer is wrapped by an error of Decode that is not the record's fault: the model's answer
// cannot become a result. The failure then counts as the model's (async.Backend).
var ErrAnswer = errors.New("the model's answer cannot become a result")

// Values returns a codec for models with one numeric input. A record is the elements of one row of
// the input, row-major. A result is the elements of one row of the output, in a new slice. T and U
// must be the Go types of the model's datatypes (float32 for FP16 and BF16). An empty name means
// the only input, or the only output. At most one dimension of the input's row may be dynamic; its
// size follows from the record's length.
func Values[T, U Numeric](input, output string) Codec[[]T, []U] {
	return valuesCodec[T, U]{input, output}
}

type valuesCodec[T, U Numeric] struct{ input, output string }

func (c valuesCodec[T, U]) Bind(sig Signature) (RowCodec[[]T, []U], error) {
	wrong := func(format string, a ...any) error {
		var t T
		var u U
		return fmt.Errorf("the codec turns []%T into []%T (input %q, output %q), but the model is %s: %s",
			t, u, c.input, c.output, sig.String(), fmt.Sprintf(format, a...))
	}
	in, ok := pick(sig.Inputs, c.input)
	if !ok {
		return nil, wrong("it has no such input")
	}
	out, ok := pick(sig.Outputs, c.output)
	if !ok {
		return nil, wrong("it has no such output")
	}
	if len(sig.Inputs) != 1 {
		return nil, wrong("every input needs a value, and the codec has one value only")
	}
	if s := sig.Inputs[in]; !holds[T](s.DType) {
		return nil, wrong("input %q takes %s", s.Name, s.DType.GoType())
	} else if s.Row.dynamic() > 1 {
		return nil, wrong("the number of values does not determine the shape of input %q", s.Name)
	}
	if s := sig.Outputs[out]; !holds[U](s.DType) {
		return nil, wrong("output %q gives %s", s.Name, s.DType.GoType())
	}
	return valuesRow[T, U]{in, out}, nil
}

func pick(specs []Spec, name string) (int, bool) {
	if name == "" {
		return 0, len(specs) == 1
	}
	return find(specs, name)
}

type valuesRow[T, U Numeric] struct{ in, out int }

func (c valuesRow[T, U]) Encode(dst *Batch, in []T) error { return AppendValues(dst.Column(c.in), in) }

func (c valuesRow[T, U]) Decode(_ []T, src *Rows, i int) ([]U, error) {
	return RowValues[U](src.Output(c.out), i, nil)
}
