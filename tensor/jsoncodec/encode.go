package jsoncodec

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/tensor"
)

// encoder reads records into batches. It belongs to one goroutine at a time.
type encoder struct {
	root      *node
	leaves    []*node  // those with inputs
	inputs    []input  // one for each of the model's
	outs      []string // the names of the wanted outputs
	overwrite bool
	scan      scanner
}

func (e *encoder) encode(dst *tensor.Batch, record []byte) error {
	s := &e.scan
	s.data, s.pos = record, 0
	defer func() { s.data = nil }()
	e.root.forget()
	s.space()
	if s.pos == len(record) {
		return fmt.Errorf("the record is empty; want one JSON object")
	}
	if s.peek() != '{' {
		if err := json.Unmarshal(record, new(json.RawMessage)); err != nil {
			return fmt.Errorf("the record is not JSON (%w); want one JSON object", err)
		}
		return fmt.Errorf("the record is %s; want one JSON object", s.kind())
	}
	if err := e.object(dst, e.root, 0); err != nil {
		return err
	}
	if s.space(); s.pos < len(record) {
		return s.unexpected("nothing more (a record is one JSON object)")
	}
	for _, n := range e.leaves {
		if !n.seen {
			return fmt.Errorf("field %q is missing; %s", n.path, e.inputs[n.inputs[0]].wants)
		}
	}
	return nil
}

// object reads the object of n. depth is the number of objects around it.
func (e *encoder) object(dst *tensor.Batch, n *node, depth int) error {
	s := &e.scan
	if err := s.open(depth); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := s.next(true, first)
		if !more {
			return err
		}
		name, escaped, err := s.name()
		if err != nil {
			return err
		}
		if c := n.find(s, name, escaped); c != nil {
			err = e.field(dst, c, depth+1)
		} else {
			err = s.skip(depth + 1)
		}
		if err != nil {
			return err
		}
	}
}

// field reads the value of a field that the mapping names.
func (e *encoder) field(dst *tensor.Batch, n *node, depth int) error {
	s := &e.scan
	switch {
	case n.seen && n.reserved:
		return fmt.Errorf("the record has a field %q, and the source adds a field of that name; choose another name for the source's field", n.path)
	case n.seen:
		return fmt.Errorf("the record has field %q twice", n.path)
	}
	n.seen = true
	if n.output >= 0 && !e.overwrite {
		return fmt.Errorf("the record already has a field %q, where output %q goes; choose another field or set overwrite", n.path, e.outs[n.output])
	}
	switch {
	case len(n.inputs) > 0:
		start := s.pos
		for _, i := range n.inputs {
			s.pos = start
			if err := e.inputs[i].read(s, n, dst.Column(i), depth); err != nil {
				return err
			}
		}
		return nil
	case len(n.children) == 0:
		return s.skip(depth)
	case s.peek() != '{':
		return fmt.Errorf("field %q is %s; want an object with field %q", n.path, s.kind(), n.children[0].path)
	}
	return e.object(dst, n, depth)
}

// input reads the values for one of the model's inputs.
type input struct {
	spec     tensor.Spec
	wants    string // for messages
	dynamic  bool
	elements int64 // of a row, if not dynamic
	dims     []int64
	leaf     int // the depth of the elements, from 1; 0 before the first element
}

func newInput(spec tensor.Spec, sig *tensor.Signature) input {
	n, err := spec.Row.Elements()
	in := input{spec: spec, dynamic: err != nil, elements: n, dims: make([]int64, len(spec.Row))}
	what := "number"
	switch spec.DType {
	case tensor.Bool:
		what = "boolean"
	case tensor.Bytes:
		what = "string"
	}
	form := "a " + what
	switch {
	case in.scalar():
	case len(spec.Row) > 1:
		form = "nested arrays of " + what + "s"
	case in.dynamic:
		form = "an array of " + what + "s"
	default:
		form = fmt.Sprintf("an array of %d %ss", n, what)
	}
	in.wants = fmt.Sprintf("input %q takes %s%v: %s%s", spec.Name, spec.DType, spec.Row, form, sig.FixedBatchNote())
	return in
}

// scalar reports whether a row is one element, with any number of dimensions of 1, and so needs no
// array.
func (in *input) scalar() bool { return !in.dynamic && in.elements == 1 }

func (in *input) wrong(n *node, what string) error {
	return fmt.Errorf("field %q %s; %s", n.path, what, in.wants)
}

func (in *input) read(s *scanner, n *node, c *tensor.Column, depth int) error {
	if s.peek() != '[' || len(in.dims) == 0 {
		if !in.scalar() {
			return in.wrong(n, "is "+s.kind())
		}
		return in.element(s, n, c)
	}
	in.leaf = 0
	for i := range in.dims {
		in.dims[i] = -1
	}
	if err := in.array(s, n, c, depth, 1); err != nil {
		return err
	}
	if in.leaf == 1 && len(in.dims) > 1 && !in.dynamic {
		if in.dims[0] != in.elements {
			return in.wrong(n, fmt.Sprintf("is a flat array of %d", in.dims[0]))
		}
		return nil
	}
	if in.leaf > 0 && in.leaf < len(in.dims) {
		return in.wrong(n, "is not nested deep enough")
	}
	for i, d := range in.dims {
		if d < 0 { // below an empty array
			in.dims[i] = max(in.spec.Row[i], 0)
		}
	}
	if !in.spec.Row.Accepts(in.dims) {
		return in.wrong(n, fmt.Sprintf("has the shape %v", tensor.Shape(slices.Clone(in.dims))))
	}
	if !in.dynamic {
		return nil
	}
	return c.SetRowShape(in.dims...)
}

// array reads an array whose elements lie at the given level, from 1.
func (in *input) array(s *scanner, n *node, c *tensor.Column, depth, level int) error {
	if level > len(in.dims) {
		return in.wrong(n, "is nested too deep")
	}
	if err := s.open(depth); err != nil {
		return err
	}
	var count int64
	for first := true; ; first = false {
		more, err := s.next(false, first)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if s.peek() == '[' {
			if in.leaf > 0 && in.leaf <= level {
				return in.wrong(n, "has elements and arrays side by side")
			}
			err = in.array(s, n, c, depth+1, level+1)
		} else {
			if in.leaf > 0 && in.leaf != level || level < len(in.dims) && in.dims[level] >= 0 {
				return in.wrong(n, "has elements and arrays side by side")
			}
			in.leaf = level
			err = in.element(s, n, c)
		}
		if err != nil {
			return err
		}
		count++
	}
	if d := &in.dims[level-1]; *d < 0 {
		*d = count
	} else if *d != count {
		return in.wrong(n, fmt.Sprintf("has arrays of %d and of %d side by side", *d, count))
	}
	return nil
}

// element reads one element.
func (in *input) element(s *scanner, n *node, c *tensor.Column) error {
	b := s.peek()
	switch in.spec.DType {
	case tensor.Bool:
		switch b {
		case 't':
			if err := s.word("true"); err != nil {
				return err
			}
			return c.AppendBool(true)
		case 'f':
			if err := s.word("false"); err != nil {
				return err
			}
			return c.AppendBool(false)
		}
	case tensor.Bytes:
		if b == '"' {
			return in.text(s, n, c)
		}
	default:
		if b == '-' || b-'0' <= 9 {
			return in.number(s, n, c)
		}
	}
	if s.kind() == "no value" {
		return s.unexpected("a value")
	}
	return in.wrong(n, "holds "+s.kind())
}

func (in *input) text(s *scanner, n *node, c *tensor.Column) error {
	raw, escaped, err := s.str()
	if err != nil {
		return err
	}
	ok := true
	if escaped {
		raw, ok = s.unescape(raw)
	}
	if !ok || !utf8.Valid(raw) {
		return in.wrong(n, "holds a string that is not valid Unicode")
	}
	return c.AppendBytes(raw)
}
