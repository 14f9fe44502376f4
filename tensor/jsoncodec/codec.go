package jsoncodec

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tensorferry/tensorferry/tensor"
)

type codec struct{ mapping Mapping }

// Bind checks the mapping against the model. The error has every fault, and both sides.
func (c codec) Bind(sig tensor.Signature) (tensor.RowCodec[json.RawMessage, json.RawMessage], error) {
	m := c.mapping.filled(&sig)
	var errs []error
	if err := m.Validate(); err != nil {
		errs = append(errs, err)
	}
	for _, name := range sorted(m.Inputs) {
		if _, ok := sig.Input(name); !ok {
			errs = append(errs, fmt.Errorf("the model has no input %q", name))
		}
	}
	for _, in := range sig.Inputs {
		if _, ok := m.Inputs[in.Name]; !ok {
			errs = append(errs, fmt.Errorf("no field feeds the input %s", in))
		}
	}
	for _, name := range sorted(m.Outputs) {
		if _, ok := sig.Output(name); !ok {
			errs = append(errs, fmt.Errorf("the model has no output %q", name))
		}
	}
	if errs != nil {
		return nil, fmt.Errorf("the mapping (%s) does not fit the model %s:\n%w", m, sig.String(), errors.Join(errs...))
	}
	return newRow(m, &sig), nil
}

// row is the codec of one subtask.
type row struct {
	enc encoder
	dec decoder
}

func newRow(m Mapping, sig *tensor.Signature) *row {
	r := &row{}
	r.enc.overwrite, r.dec.overwrite, r.dec.odd = m.Overwrite, m.Overwrite, m.NotNumbers
	r.enc.root = &node{output: -1}
	for i, in := range sig.Inputs {
		path := m.inputPath(in.Name)
		at := r.enc.root
		for n := range path {
			at = at.child(path[:n+1])
		}
		at.inputs = append(at.inputs, i)
		if !slices.Contains(r.enc.leaves, at) {
			r.enc.leaves = append(r.enc.leaves, at)
		}
		r.enc.inputs = append(r.enc.inputs, newInput(in, sig))
	}
	for _, field := range m.Reserved {
		r.enc.root.child([]string{field}).reserved = true
	}
	// Use the model's order of outputs, not the map's, so that results have the same bytes each
	// time.
	for i, out := range sig.Outputs {
		to, ok := m.Outputs[out.Name]
		if !ok {
			continue
		}
		r.add(out.Name, output{index: i, field: m.outputField(out.Name), nan: to.NaN})
	}
	return r
}

// add makes the results have a field for an output.
func (r *row) add(name string, o output) {
	r.enc.root.child([]string{o.field}).output = len(r.dec.outs)
	r.enc.outs = append(r.enc.outs, name)
	o.key = append(appendString(nil, []byte(o.field)), ':')
	r.dec.outs = append(r.dec.outs, o)
}

// Encode reads the mapped fields of the record in.
func (r *row) Encode(dst *tensor.Batch, in json.RawMessage) error { return r.enc.encode(dst, in) }

// Decode returns the record in with the outputs' fields.
func (r *row) Decode(in json.RawMessage, src *tensor.Rows, i int) (json.RawMessage, error) {
	return r.dec.decode(in, src, i)
}

// node is a field that the mapping names, or an object on the way to one.
type node struct {
	name     string
	path     string
	children []*node
	inputs   []int // the model's inputs that the field feeds
	output   int   // which of the wanted outputs goes to this field; -1: none
	reserved bool  // the source adds this field to the record
	seen     bool  // the present record has it
}

// child returns the node at the end of path, which begins at the root and leads through n.
func (n *node) child(path []string) *node {
	name := path[len(path)-1]
	for _, c := range n.children {
		if c.name == name {
			return c
		}
	}
	c := &node{name: name, path: strings.Join(path, "."), output: -1}
	n.children = append(n.children, c)
	return c
}

// find returns the child whose name is the content of a JSON string, or nil.
func (n *node) find(s *scanner, raw []byte, escaped bool) *node {
	if escaped {
		var ok bool
		if raw, ok = s.unescape(raw); !ok {
			return nil
		}
	}
	for _, c := range n.children {
		if string(raw) == c.name {
			return c
		}
	}
	return nil
}

func (n *node) forget() {
	n.seen = false
	for _, c := range n.children {
		c.forget()
	}
}
