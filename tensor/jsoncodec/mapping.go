package jsoncodec

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/internal/enum"
	"github.com/tensorferry/tensorferry/tensor"
)

// Mapping says which fields of a record feed the model and which receive its answer. The zero value
// maps every input and output to the field of its own name.
type Mapping struct {
	// Inputs has an entry for each of the model's inputs, by the input's name. If it is empty,
	// every input is read from the field of its name.
	Inputs map[string]Input
	// Outputs names the outputs that the results contain. If it is empty, every output is written
	// to the field of its name.
	Outputs map[string]Output
	// Overwrite lets an output replace a field that the record has already, in its place. Without
	// it such a field is an error of the record.
	Overwrite bool
	// Reserved are fields that a source adds to the record, for example with AppendField. A record
	// that already has such a field then has it twice, and is refused.
	Reserved []string
	// NotNumbers, if set, counts the elements of results that were NaN or infinite.
	NotNumbers *atomic.Int64
}

// Input is the source of an input's values.
type Input struct {
	// Field is the name of the field; a.b.c leads through objects. Empty: the input's own name, in
	// which a dot has no meaning.
	Field string
}

// Output is the place for an output's values.
type Output struct {
	// Field is the name of a field of the record itself, without dots. Empty: the output's own
	// name, in which a dot has no meaning.
	Field string
	// NaN says what is written for numbers that JSON does not have. Default: null.
	NaN NaN
}

// NaN says what happens to the floating-point values that JSON does not have: NaN and the
// infinities.
type NaN uint8

const (
	// NaNNull writes null.
	NaNNull NaN = iota
	// NaNFail fails the record, with an error that wraps tensor.ErrAnswer.
	NaNFail
	// NaNString writes "NaN", "Infinity" or "-Infinity".
	NaNString
)

var nans = []string{"null", "fail", "string"}

func (n NaN) String() string { return enum.Name("nan", n, nans) }

// New returns the codec that m describes.
//
// An input whose row is one element by the model's own shape ([], [1], [1,1]) is fed by a number, a
// string (BYTES) or a boolean (BOOL). Other inputs are fed by arrays, nested like the shape. If the
// shape is fixed, a flat row-major array of all elements is accepted too. Integer datatypes take
// integers in their range; floating-point datatypes round to nearest.
//
// An output whose row the model declares as [] or [1] is written without an array. All others are
// written as arrays, nested like the shape, even with one element if the model leaves the length
// open. Floating-point values are written with the fewest digits that give the same value again,
// and as Output.NaN says if they are not finite.
//
// Bind returns an error that says what is wrong with m, and how m differs from the model.
func New(m Mapping) tensor.Codec[json.RawMessage, json.RawMessage] {
	m.Inputs, m.Outputs, m.Reserved = maps.Clone(m.Inputs), maps.Clone(m.Outputs), slices.Clone(m.Reserved)
	return codec{m}
}

// Validate checks m for faults that do not depend on the model: impossible field names, two outputs
// in one field, a field that is used both as a value and as an object, and outputs in an input's
// field without Overwrite. The error lists every fault.
func (m Mapping) Validate() error {
	var errs []error
	taken := make(map[string]string)
	for _, name := range sorted(m.Outputs) {
		field := m.Outputs[name].Field
		switch {
		case strings.Contains(field, "."):
			errs = append(errs, fmt.Errorf("output %q goes to field %q; want a field of the record itself, without dots", name, field))
		case !utf8.ValidString(m.outputField(name)):
			errs = append(errs, fmt.Errorf("output %q goes to field %q, which is not UTF-8", name, m.outputField(name)))
		}
		if other, ok := taken[m.outputField(name)]; ok {
			errs = append(errs, fmt.Errorf("outputs %q and %q both go to field %q", other, name, m.outputField(name)))
		}
		taken[m.outputField(name)] = name
	}
	for _, field := range m.Reserved {
		if output, ok := taken[field]; ok {
			errs = append(errs, fmt.Errorf("output %q goes to field %q, which the source adds to the record; choose another field", output, field))
		}
	}
	paths := make(map[string]string)
	for _, name := range sorted(m.Inputs) {
		path := m.inputPath(name)
		if slices.Contains(path, "") && m.Inputs[name].Field != "" {
			errs = append(errs, fmt.Errorf("input %q comes from field %q; want names with single dots between them", name, m.Inputs[name].Field))
		}
		paths[key(path)] = name
		if output, ok := taken[path[0]]; ok && !m.Overwrite {
			errs = append(errs, fmt.Errorf("output %q goes to field %q, which input %q comes from; choose another field or set overwrite", output, path[0], name))
		}
	}
	for _, name := range sorted(m.Inputs) {
		path := m.inputPath(name)
		for n := 1; n < len(path); n++ {
			if other, ok := paths[key(path[:n])]; ok {
				errs = append(errs, fmt.Errorf("input %q comes from field %q, which lies inside that of input %q", name, strings.Join(path, "."), other))
			}
		}
	}
	return errors.Join(errs...)
}

// key joins a path with a byte that no valid name contains.
func key(path []string) string { return strings.Join(path, "\xff") }

// inputPath returns the names that lead to an input's field.
func (m Mapping) inputPath(name string) []string {
	if f := m.Inputs[name].Field; f != "" {
		return strings.Split(f, ".")
	}
	return []string{name}
}

func (m Mapping) outputField(name string) string {
	if f := m.Outputs[name].Field; f != "" {
		return f
	}
	return name
}

// filled returns m with the defaults for the model.
func (m Mapping) filled(sig *tensor.Signature) Mapping {
	if len(m.Inputs) == 0 {
		m.Inputs = make(map[string]Input)
		for _, in := range sig.Inputs {
			m.Inputs[in.Name] = Input{}
		}
	}
	if len(m.Outputs) == 0 {
		m.Outputs = make(map[string]Output)
		for _, out := range sig.Outputs {
			m.Outputs[out.Name] = Output{}
		}
	}
	return m
}

// String describes the mapping, such as: pixels from "pixels"; label to "digit", probs to "scores".
func (m Mapping) String() string {
	var b strings.Builder
	for i, name := range sorted(m.Inputs) {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s from %q", name, strings.Join(m.inputPath(name), "."))
	}
	b.WriteString("; ")
	for i, name := range sorted(m.Outputs) {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s to %q", name, m.outputField(name))
		if n := m.Outputs[name].NaN; n != NaNNull {
			fmt.Fprintf(&b, " (NaN: %s)", n)
		}
	}
	return b.String()
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
