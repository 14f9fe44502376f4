package onnx

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tensorferry/tensorferry/tensor"
)

// rowsOf returns a tensor of FLOAT for a batch of rows of the given width.
func rowsOf(name string, width int, values ...float32) tensor.Tensor {
	t := tensor.Tensor{Name: name, DType: tensor.FP32, Shape: tensor.Shape{int64(len(values) / width), int64(width)}}
	for _, v := range values {
		t.Raw = binary.LittleEndian.AppendUint32(t.Raw, math.Float32bits(v))
	}
	return t
}

// linear multiplies a row of 4 with the weight w and adds the weight b. The caller decides whether
// the weights are listed among the inputs.
const linear = "initializer: {name: 'w' data_type: 1 dims: [4, 2] float_data: [1, 2, 3, 4, 5, 6, 7, 8]} initializer: {name: 'b' data_type: 1 dims: 2 float_data: [0.5, -0.5]} " +
	"node: {op_type: 'Gemm' input: ['x', 'w', 'b'] output: 'y'} "

// fixed is like of, without the batch dimension.
func fixed(what, name string, kind int, dims ...int) string {
	return strings.Replace(of(what, name, kind, dims...), "dim: {dim_param: 'N'}", "", 1)
}

// A weight that is listed among the inputs is not an input.
func TestWeightsAmongInputsAreNone(t *testing.T) {
	x, y := of("input", "x", 1, 4), of("output", "y", 1, 2)
	w, b := fixed("input", "w", 1, 4, 2), fixed("input", "b", 1, 2)
	outside := strings.Replace(linear, "float_data: [1, 2, 3, 4, 5, 6, 7, 8]", "data_location: EXTERNAL external_data: {key: 'location' value: 'weights'}", 1)
	for name, graph := range map[string]string{
		"none listed":           x + y + linear,
		"both listed":           x + w + b + y + linear,
		"before the input":      w + b + x + y + linear,
		"around it":             w + x + b + y + linear,
		"one of them":           x + b + y + linear,
		"in a file of its own":  w + x + y + outside,
		"twice":                 w + w + x + y + linear,
		"as what shapes others": x + fixed("input", "to", 7, 2) + y + "initializer: {name: 'to' data_type: 7 dims: 2 int64_data: [-1, 4]} " + "node: {op_type: 'Reshape' input: ['x', 'to'] output: 'same'} " + strings.ReplaceAll(linear, "'x'", "'same'"),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var weights []byte
			for i := range 8 {
				weights = binary.LittleEndian.AppendUint32(weights, math.Float32bits(float32(i+1)))
			}
			if err := os.WriteFile(filepath.Join(dir, "weights"), weights, 0o600); err != nil {
				t.Fatal(err)
			}
			m, err := Load(t.Context(), modelFile(t, dir, 13, graph), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			sig := m.Signature()
			if got := tensor.List(sig.Inputs); got != "x FP32[4]" || !sig.Batched {
				t.Errorf("inputs %s, batched %v", got, sig.Batched)
			}
			out, err := m.Run(t.Context(), []tensor.Tensor{rowsOf("x", 4, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1)})
			if err != nil || !slices.Equal(floatsOf(out[0].Raw), []float32{1.5, 1.5, 7.5, 7.5, 16.5, 19.5}) {
				t.Errorf("%v, %v", out, err)
			}
		})
	}
	_, err := Load(t.Context(), modelFile(t, t.TempDir(), 13, w+b+y+strings.ReplaceAll(linear, "'x'", "'w'")), Options{})
	if err == nil || !strings.Contains(err.Error(), "the model has 0 inputs and 1 outputs") {
		t.Errorf("with weights alone: %v", err)
	}
}

// If the model does not describe an input or output, the error says so and says what to do.
func TestInputsAndOutputsAreDescribed(t *testing.T) {
	x, y, relu := of("input", "x", 1, 4), of("output", "y", 1, 4), "node: {op_type: 'Relu' input: 'x' output: 'y'} "
	for name, c := range map[string]struct{ graph, want string }{
		"an output without a shape": {x + "output: {name: 'y' type: {tensor_type: {elem_type: 1}}} " + relu, `output "y" has no shape in the model; write one into it`},
		"an input without a shape":  {"input: {name: 'x' type: {tensor_type: {elem_type: 1}}} " + y + relu, `input "x" has no shape in the model; write one into it`},
		"an output without a type":  {x + "output: {name: 'y'} " + relu, `output "y" is not described as a tensor; run the model in ONNX Runtime`},
		"an input without a type":   {"input: {name: 'x' type: {}} " + y + relu, `input "x" is not described as a tensor`},
		"an output that is a list":  {x + "output: {name: 'y' type: {sequence_type: {elem_type: {tensor_type: {elem_type: 1}}}}} " + relu, `output "y" is not described as a tensor`},
		"an input of strings":       {of("input", "x", 8, 4) + y + relu, "STRING"},
		"an input of no datatype":   {of("input", "x", 0, 4) + y + relu, "UNDEFINED"},
	} {
		_, err := Load(t.Context(), modelFile(t, t.TempDir(), 13, c.graph), Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "nil pointer") {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty.onnx")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(t.Context(), empty, Options{}); err == nil || !strings.Contains(err.Error(), "not an ONNX model: it has no graph") {
		t.Errorf("an empty file: %v", err)
	}
}

const notInGo = " is not supported in pure Go; use ONNX Runtime"

// Whatever error GoMLX returns for a graph that it cannot build, ours names the operator and says
// what to do.
func TestUnsupportedOperatorsAreNamed(t *testing.T) {
	x, y := of("input", "x", 1, 4), of("output", "y", 1, 4)
	node := func(op, in, out, more string) string {
		return fmt.Sprintf("node: {op_type: '%s' input: [%s] output: '%s' %s} ", op, in, out, more)
	}
	wide := "input: {name: 'x' type: {tensor_type: {elem_type: 1 shape: {dim: {dim_param: 'N'} dim: {dim_param: 'A'}}}}} "
	many := x + y
	for i := range 40 {
		op, from, to := "Relu", fmt.Sprintf("'v%d'", i), fmt.Sprintf("v%d", i+1)
		if i == 0 {
			from = "'x'"
		}
		if i == 27 {
			op = "Einsum"
		}
		if i == 39 {
			to = "y"
		}
		many += node(op, from, to, "")
	}
	yes := "initializer: {name: 'yes' data_type: 9 int32_data: 1} "
	branch := func(name, op string) string {
		return fmt.Sprintf("attribute: {name: '%s' type: GRAPH g: {name: '%s' node: {op_type: '%s' input: 'x' output: '%[2]s_y'} output: {name: '%[2]s_y'}}} ", name, name, op)
	}
	for name, c := range map[string]struct{ graph, op string }{
		"one that it does not have":             {x + y + node("Mish", "'x'", "y", ""), "Mish"},
		"one of another domain":                 {x + y + node("Frobnicate", "'x'", "y", "domain: 'example.org'"), "Frobnicate"},
		"behind others":                         {x + y + node("Relu", "'x'", "a", "") + node("Mish", "'a'", "b", "") + node("Relu", "'b'", "y", ""), "Mish"},
		"with an input missing":                 {x + y + node("Relu", "'x'", "a", "") + node("Add", "'a'", "y", ""), "Add"},
		"without what it needs":                 {x + y + node("Relu", "'x'", "a", "") + node("Einsum", "'a', 'a'", "b", "") + node("Relu", "'b'", "y", ""), "Einsum"},
		"in the middle of many":                 {many, "Einsum"},
		"of a datatype that it does not take":   {x + y + node("Relu", "'x'", "a", "") + node("Not", "'a'", "b", "") + node("Cast", "'b'", "y", "attribute: {name: 'to' type: INT i: 1}"), "Not"},
		"in a graph inside another":             {x + y + yes + node("If", "'yes'", "y", branch("then_branch", "Mish")+branch("else_branch", "Relu")), "Mish"},
		"in a row of any size":                  {wide + of("output", "y", 1) + node("Mish", "'x'", "a", "") + node("ReduceSum", "'a'", "y", "attribute: {name: 'keepdims' type: INT i: 0}"), "Mish"},
		"where another fails, which is not run": {x + y + node("Mish", "'x'", "unused", "") + node("Relu", "'x'", "y", ""), ""},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Load(t.Context(), modelFile(t, t.TempDir(), 13, c.graph), Options{})
			if err == nil {
				defer m.Close()
			}
			if c.op == "" && err != nil || c.op != "" && (err == nil || !strings.Contains(err.Error(), "operator "+c.op+notInGo)) {
				t.Fatalf("%v; want operator %q to be named", err, c.op)
			}
			if err != nil && (len(err.Error()) > 1000 || strings.Contains(err.Error(), "runtime error") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("the error is not fit for a user: %v", err)
			}
		})
	}
}

// A graph is built for each shape, so an operator may fail at a later shape only. Every run of that
// shape names the operator, and other shapes still run.
func TestUnsupportedAtRun(t *testing.T) {
	graph := "input: {name: 'x' type: {tensor_type: {elem_type: 1 shape: {dim: {dim_param: 'N'} dim: {dim_param: 'A'}}}}} " + of("output", "y", 1, 2) +
		"initializer: {name: 'to' data_type: 7 dims: 2 int64_data: [-1, 2]} node: {op_type: 'Relu' input: 'x' output: 'a'} node: {op_type: 'Add' input: ['a', 'to_add'] output: 'b'} " +
		"node: {op_type: 'Relu' input: 'b' output: 'y'} initializer: {name: 'to_add' data_type: 1 dims: 2 float_data: [1, 2]} "
	m, err := Load(t.Context(), modelFile(t, t.TempDir(), 13, graph), Options{Instances: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for width := 2; width < 6; width++ {
				out, err := m.Run(t.Context(), []tensor.Tensor{rowsOf("x", width, make([]float32, width*(i+1))...)})
				if width == 2 && (err != nil || !slices.Equal(floatsOf(out[0].Raw)[:2], []float32{1, 2})) {
					t.Errorf("rows of 2: %v, %v", out, err)
				}
				if width > 2 && (err == nil || !strings.Contains(err.Error(), "operator Add"+notInGo)) {
					t.Errorf("rows of %d: %v", width, err)
				}
			}
		})
	}
	all.Wait()
}
