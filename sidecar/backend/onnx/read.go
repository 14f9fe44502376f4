package onnx

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/gomlx/onnx-gomlx/onnx"
	"github.com/gomlx/onnx-gomlx/onnx/parser"
)

// file is a model that was read: GoMLX's form of it, and what else the backend needs.
type file struct {
	model  onnx.Model
	limits map[string]int64 // of inputs that are indices: how many entries they may refer to
	nodes  []node           // those that the outputs need, each after its dependencies
}

// read reads a model from its file, once. It refuses a model that GoMLX would crash on or compute
// wrongly.
func read(path string) (f file, err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return f, errors.New("it is not a regular file")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return f, err
	}
	m, err := parseModel(data)
	if err != nil {
		return f, err
	}
	if !m.has("graph") {
		return f, errors.New("not an ONNX model: it has no graph")
	}
	if m.dropWeights() {
		if data, err = proto.Marshal(m.Interface()); err != nil {
			return f, fmt.Errorf("its weights are listed among its inputs, and they cannot be removed from there: %w", err)
		}
	}
	if err := m.checkFace(); err != nil {
		return f, err
	}
	if f.limits, err = vet(m, filepath.Dir(path)); err != nil {
		return f, err
	}
	f.nodes = m.needed()
	f.model, err = parse(data)
	if err != nil {
		return f, err
	}
	f.model = f.model.WithBaseDir(filepath.Dir(path))
	return f, nil
}

// parse is GoMLX's own reader, which reports some faults by panic.
func parse(data []byte) (model onnx.Model, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be read in pure Go; use ONNX Runtime: %v", p)
		}
	}()
	return parser.Parse(data)
}

// dropWeights removes the weights from the list of the graph's inputs, and reports whether there
// were any. The first versions of ONNX require that weights are listed there. In later versions a
// listed weight is a default that a caller may override, which callers of this backend cannot do.
func (m message) dropWeights() bool {
	g := m.message("graph")
	weights := map[string]bool{}
	for _, kind := range []string{"initializer", "sparse_initializer"} {
		for t := range g.messages(kind) {
			if kind == "sparse_initializer" {
				t = t.message("values")
			}
			weights[t.text("name")] = true
		}
	}
	inputs := g.Mutable(g.Descriptor().Fields().ByName("input")).List()
	var kept []protoreflect.Value
	for i := range inputs.Len() {
		if in := inputs.Get(i); !weights[message{in.Message()}.text("name")] {
			kept = append(kept, in)
		}
	}
	if len(kept) == inputs.Len() {
		return false
	}
	for i, in := range kept {
		inputs.Set(i, in)
	}
	inputs.Truncate(len(kept))
	return true
}

// checkFace refuses a model if an input or output has no type or no shape. GoMLX's reader assumes
// that they have both.
func (m message) checkFace() error {
	for _, kind := range []string{"input", "output"} {
		for i := range m.message("graph").messages(kind) {
			t := i.message("type")
			if name := i.text("name"); !t.has("tensor_type") {
				return fmt.Errorf("%s %q is not described as a tensor; run the model in ONNX Runtime, or write its type into the model", kind, name)
			} else if !t.message("tensor_type").has("shape") {
				return fmt.Errorf("%s %q has no shape in the model; write one into it (onnx.shape_inference does for most), with a name for a dimension of any size", kind, name)
			}
		}
	}
	return nil
}

// node is an operator and the name of its first output.
type node struct{ op, output string }

// needed returns the operators that the graph's outputs need, in the graph's order. vet has checked
// that each operator stands after those that it depends on.
func (m message) needed() (all []node) {
	g := m.message("graph")
	wanted := map[string]bool{}
	for o := range g.messages("output") {
		wanted[o.text("name")] = true
	}
	var nodes []message
	for n := range g.messages("node") {
		nodes = append(nodes, n)
	}
	keep := make([]bool, len(nodes))
	for i := len(nodes) - 1; i >= 0; i-- {
		for _, name := range nodes[i].texts("output") {
			keep[i] = keep[i] || name != "" && wanted[name]
		}
		if keep[i] {
			nodes[i].takes(wanted)
		}
	}
	for i, n := range nodes {
		if outputs := n.texts("output"); keep[i] && outputs[0] != "" {
			all = append(all, node{n.text("op_type"), outputs[0]})
		}
	}
	return all
}

// takes adds the names of a node's inputs to names, with those of the graphs nested in the node.
func (m message) takes(names map[string]bool) {
	for _, name := range m.texts("input") {
		names[name] = true
	}
	for a := range m.messages("attribute") {
		if a.has("g") {
			for n := range a.message("g").messages("node") {
				n.takes(names)
			}
		}
	}
}
