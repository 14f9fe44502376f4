package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/tensor"
)

// modelFile writes a model into a file in dir and returns the file's path. graph is the content of
// its GraphProto, in the text form of protocol buffers.
func modelFile(t *testing.T, dir string, opset int, graph string) string {
	t.Helper()
	m, err := parseModel(nil)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("ir_version: 8 opset_import: {version: %d} graph: {name: 'g' %s}", opset, graph)
	if err := prototext.Unmarshal([]byte(text), m.Interface()); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	data, err := proto.Marshal(m.Interface())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "model.onnx")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// of describes an input or an output (what) whose first dimension is the batch. kind is 1 for
// FLOAT, 6 for INT32, 7 for INT64.
func of(what, name string, kind int, row ...int) string {
	dims := "dim: {dim_param: 'N'}"
	for _, d := range row {
		dims += fmt.Sprintf(" dim: {dim_value: %d}", d)
	}
	return fmt.Sprintf("%s: {name: '%s' type: {tensor_type: {elem_type: %d shape: {%s}}}} ", what, name, kind, dims)
}

func TestVet(t *testing.T) {
	plain := of("input", "x", 1, 4) + of("output", "y", 1, 4)
	cube := of("input", "x", 1, 2, 3) + of("output", "y", 1, 2, 3)
	image := of("input", "x", 1, 1, 4, 4) + of("output", "y", 1, 1, 4, 4)
	node := func(op, attrs string, in ...string) string {
		text := "node: {op_type: '" + op + "' output: 'y' "
		for _, name := range in {
			text += "input: '" + name + "' "
		}
		return text + attrs + "} "
	}
	ints := func(name string, values ...int64) string {
		return fmt.Sprintf("initializer: {name: '%s' data_type: 7 dims: %d int64_data: %s} ", name, len(values), strings.ReplaceAll(fmt.Sprint(values), " ", ", "))
	}
	for _, c := range []struct {
		name  string
		opset int
		graph string
		want  string // empty: the model is accepted
	}{
		{"a plain one", 13, plain + node("Relu", "", "x"), ""},
		{"bounds in attributes", 6, plain + node("Clip", "attribute: {name: 'min' type: FLOAT f: 0} attribute: {name: 'max' type: FLOAT f: 6}", "x"), "operator Clip (opset 6) has its bounds in attributes"},
		{"softmax over two dimensions", 11, cube + node("Softmax", "attribute: {name: 'axis' type: INT i: 1}", "x"), "operator Softmax (opset 11) normalizes over several dimensions"},
		{"softmax over the last", 11, cube + node("Softmax", "attribute: {name: 'axis' type: INT i: 2}", "x"), ""},
		{"softmax as it is by now", 13, cube + node("Softmax", "attribute: {name: 'axis' type: INT i: 1}", "x"), ""},
		{"pooling without strides", 13, image + node("MaxPool", "attribute: {name: 'kernel_shape' type: INTS ints: [2, 2]}", "x"), "operator MaxPool (opset 13) has no strides"},
		{"the last of the greatest", 13, of("input", "x", 1, 4) + of("output", "y", 7, 1) +
			node("ArgMax", "attribute: {name: 'axis' type: INT i: 1} attribute: {name: 'select_last_index' type: INT i: 1}", "x"), "selects the last index"},
		{"backwards", 13, plain + ints("from", 3) + ints("to", -9) + ints("axis", 1) + ints("step", -1) + node("Slice", "", "x", "from", "to", "axis", "step"), "may go backwards"},
		{"forwards", 13, plain + ints("from", 0) + ints("to", 4) + ints("axis", 1) + ints("step", 1) + node("Slice", "", "x", "from", "to", "axis", "step"), ""},
		{"a mean of integers", 13, of("input", "x", 7, 4) + of("output", "y", 7, 1) + node("ReduceMean", "attribute: {name: 'axes' type: INTS ints: [1]}", "x"), "averages integers"},
		{"a cubic resize", 13, image + node("Resize", "attribute: {name: 'mode' type: STRING s: 'cubic'}", "x"), "has mode cubic, half_pixel"},
		{"steps that were made a vector", 13, of("input", "x", 1, 4) + of("output", "y", 1, 2) + ints("from", 0) + ints("to", 4) + ints("axis", 1) + ints("zero", 0) +
			"node: {op_type: 'Constant' output: 'c' attribute: {name: 'value' type: TENSOR t: {data_type: 7 int64_data: 2}}} node: {op_type: 'Unsqueeze' input: 'c' input: 'zero' output: 'step'} " +
			node("Slice", "", "x", "from", "to", "axis", "step"), ""},
		{"softmax over the last of what is nowhere described", 11, of("input", "x", 1, 2, 2) + of("output", "y", 1, 2, 2) +
			"node: {op_type: 'MatMul' input: 'x' input: 'x' output: 'a'} node: {op_type: 'Softmax' input: 'a' output: 'b' attribute: {name: 'axis' type: INT i: 2}} " +
			node("MatMul", "", "b", "x"), ""},
		{"softmax over two of what is nowhere described", 11, of("input", "x", 1, 2, 2) + of("output", "y", 1, 2, 2) +
			"node: {op_type: 'MatMul' input: 'x' input: 'x' output: 'a'} node: {op_type: 'Softmax' input: 'a' output: 'b' attribute: {name: 'axis' type: INT i: 1}} " +
			node("MatMul", "", "b", "x"), "normalizes over several dimensions"},
		{"a resize as PyTorch writes it", 13, of("input", "x", 1, 1, 2, 2) + of("output", "y", 1, 1, 4, 4) + "node: {op_type: 'Constant' output: 's' attribute: {name: 'value' type: TENSOR t: {data_type: 1 dims: 4 float_data: [1, 1, 2, 2]}}} " +
			node("Resize", "attribute: {name: 'mode' type: STRING s: 'linear'} attribute: {name: 'coordinate_transformation_mode' type: STRING s: 'pytorch_half_pixel'}", "x", "", "s"), ""},
		{"the same to something smaller", 13, of("input", "x", 1, 1, 2, 2) + of("output", "y", 1, 1, 1, 1) + "node: {op_type: 'Constant' output: 's' attribute: {name: 'value' type: TENSOR t: {data_type: 1 dims: 4 float_data: [1, 1, 0.5, 0.5]}}} " +
			node("Resize", "attribute: {name: 'mode' type: STRING s: 'linear'} attribute: {name: 'coordinate_transformation_mode' type: STRING s: 'pytorch_half_pixel'}", "x", "", "s"),
			"has mode linear, pytorch_half_pixel"},
		{"an integer divided by a row", 13, of("input", "x", 7, 2) + of("output", "y", 7, 2) + ints("twelve", 12, 12) + node("Div", "", "twelve", "x"), ""},
		{"a circle", 13, plain + "node: {op_type: 'Add' input: 'x' input: 'b' output: 'a'} node: {op_type: 'Relu' input: 'a' output: 'b'} " + node("Relu", "", "b"),
			`operator Add takes "b", which is not defined before it`},
		{"a weight without its data", 13, plain + "initializer: {name: 'w' data_type: 1 dims: 137438953472 raw_data: 'abcd'} " + node("Add", "", "x", "w"), `weight "w" has fewer data`},
		{"a weight of an overflowing shape", 13, plain + "initializer: {name: 'w' data_type: 1 dims: [8589934592, 8589934592] raw_data: 'abcd'} " + node("Add", "", "x", "w"), `weight "w" has an impossible shape`},
		{"a weight elsewhere", 13, plain + "initializer: {name: 'w' data_type: 1 dims: 4 data_location: EXTERNAL external_data: {key: 'location' value: '../secret'}} " + node("Add", "", "x", "w"),
			"must lie in the model's folder"},
		{"a weight behind a link", 13, plain + "initializer: {name: 'w' data_type: 1 dims: 4 data_location: EXTERNAL external_data: {key: 'location' value: 'link'}} " + node("Add", "", "x", "w"),
			"must lie in the model's folder"},
		{"a weight behind its file's end", 13, plain + "initializer: {name: 'w' data_type: 1 dims: 400 data_location: EXTERNAL external_data: {key: 'location' value: 'w'}} " + node("Add", "", "x", "w"),
			"has fewer data"},
		{"a weight in a file of its own", 13, plain + "initializer: {name: 'w' data_type: 1 dims: 4 data_location: EXTERNAL external_data: {key: 'location' value: 'w'}} " + node("Add", "", "x", "w"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "model")
			if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(root, "secret"), make([]byte, 16), 0o600),
				os.WriteFile(filepath.Join(dir, "w"), make([]byte, 16), 0o600), os.Symlink("../secret", filepath.Join(dir, "link"))); err != nil {
				t.Fatal(err)
			}
			m, err := Load(t.Context(), modelFile(t, dir, c.opset, c.graph), Options{})
			if err == nil {
				defer m.Close()
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}

// GoMLX would take the nearest entry for an index that is out of range, so such rows are refused.
func TestIndicesAreChecked(t *testing.T) {
	graph := of("input", "x", 7, 2) + of("output", "y", 1, 2, 1) +
		"initializer: {name: 'w' data_type: 1 dims: [7, 1] float_data: [1, 2, 3, 4, 5, 6, 7]} node: {op_type: 'Gather' input: 'w' input: 'x' output: 'y'}"
	m, err := Load(t.Context(), modelFile(t, t.TempDir(), 13, graph), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	run := func(indices ...int64) ([]tensor.Tensor, error) {
		var raw []byte
		for _, i := range indices {
			raw = binary.LittleEndian.AppendUint64(raw, uint64(i))
		}
		return m.Run(t.Context(), []tensor.Tensor{{Name: "x", DType: tensor.Int64, Shape: tensor.Shape{int64(len(indices) / 2), 2}, Raw: raw}})
	}
	out, err := run(0, 6, -7, -1, 3, 3)
	if err != nil {
		t.Fatal(err)
	}
	if got := floatsOf(out[0].Raw); !slices.Equal(got, []float32{1, 7, 1, 7, 4, 4}) {
		t.Errorf("%v", got)
	}
	_, err = run(0, 6, 7, 99, 1, 1, 0, -8)
	bad, ok := errors.AsType[*backend.RowsError](err)
	if !ok || !slices.Equal(bad.Rows, []int{1, 3}) || bad.Input != "x" || !strings.Contains(err.Error(), "the index 7 is out of range; there are 7 entries") {
		t.Errorf("%v", err)
	}
}

// The model itself converts indices of another datatype.
func TestIndicesOfAnotherDatatype(t *testing.T) {
	graph := of("input", "x", 1, 1) + of("output", "y", 1, 1, 2) + "initializer: {name: 'w' data_type: 1 dims: [3, 2] float_data: [1, 2, 3, 4, 5, 6]} " +
		"node: {op_type: 'Cast' input: 'x' output: 'i' attribute: {name: 'to' type: INT i: 6}} node: {op_type: 'Gather' input: 'w' input: 'i' output: 'y'}"
	m, err := Load(t.Context(), modelFile(t, t.TempDir(), 13, graph), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	out, err := m.Run(t.Context(), []tensor.Tensor{{Name: "x", DType: tensor.FP32, Shape: tensor.Shape{1, 1}, Raw: binary.LittleEndian.AppendUint32(nil, math.Float32bits(1))}})
	if err != nil || !slices.Equal(floatsOf(out[0].Raw), []float32{3, 4}) {
		t.Errorf("%v, %v", out, err)
	}
}

// An input without elements is refused: its other dimensions may have any size.
func TestNoElements(t *testing.T) {
	graph := "input: {name: 'x' type: {tensor_type: {elem_type: 1 shape: {dim: {dim_param: 'N'} dim: {dim_param: 'A'} dim: {dim_param: 'B'}}}}} " +
		of("output", "y", 1, 1) + "node: {op_type: 'ReduceSum' input: 'x' output: 'y'}"
	m, err := Load(t.Context(), modelFile(t, t.TempDir(), 13, graph), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	_, err = m.Run(t.Context(), []tensor.Tensor{{Name: "x", DType: tensor.FP32, Shape: tensor.Shape{1, 1 << 38, 0}}})
	if e, ok := errors.AsType[*backend.TensorError](err); !ok || e.Input != "x" || !strings.Contains(err.Error(), "has no elements") {
		t.Errorf("%v", err)
	}
}

func floatsOf(raw []byte) (all []float32) {
	for ; len(raw) >= 4; raw = raw[4:] {
		all = append(all, math.Float32frombits(binary.LittleEndian.Uint32(raw)))
	}
	return all
}

// The check never panics or runs for ever, whatever the model file.
func FuzzVet(f *testing.F) {
	data, err := os.ReadFile(digitsFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:min(len(data), 4096)])
	m, err := parseModel(nil)
	if err != nil {
		f.Fatal(err)
	}
	text := "opset_import: {version: 6} graph: {" + of("input", "x", 7, 2) + of("output", "y", 1, 2, 1) +
		"initializer: {name: 'w' data_type: 7 dims: [7, 1] int64_data: [1, 2, 3, 4, 5, 6, 7]} node: {op_type: 'Gather' input: 'w' input: 'x' output: 'y'}" +
		"node: {op_type: 'Slice' input: ['x', 'x', 'x', 'x', 'w'] output: 'z'} node: {op_type: 'Softmax' input: 'x' output: 'u'}" +
		"node: {op_type: 'If' input: 'x' attribute: {name: 'then' type: GRAPH g: {node: {op_type: 'Clip' input: 'x' attribute: {name: 'min' f: 1}}}}}}"
	if err := prototext.Unmarshal([]byte(text), m.Interface()); err != nil {
		f.Fatal(err)
	}
	whole, err := proto.Marshal(m.Interface())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseModel(data)
		if err != nil || !m.has("graph") {
			return
		}
		m.dropWeights()
		_ = m.checkFace()
		limits, err := vet(m, dir)
		if err == nil {
			m.needed()
		}
		for name, n := range limits {
			if err == nil && n < 0 {
				t.Errorf("%q has %d entries", name, n)
			}
		}
	})
}
