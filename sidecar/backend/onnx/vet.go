package onnx

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
)

// vet refuses models that GoMLX would compute wrongly without an error, and models that would end
// the process. A wrong answer is one that differs from the operators' specification
// (https://onnx.ai/onnx/operators): GoMLX ignores the version of the operator set, and attributes
// that it does not know. The process would end over a graph with a cycle, which GoMLX's reader
// follows for ever, and over weights that are larger than their data. Data outside of the model's
// folder are refused too. limits has the inputs that are indices into a weight, with the number of
// the weight's entries: GoMLX would take the nearest entry for an index that is out of range.
func vet(m message, folder string) (limits map[string]int64, err error) {
	v := vetter{folder: folder, opset: 1, values: map[string]value{}, limits: map[string]int64{}}
	for o := range m.messages("opset_import") {
		if d := o.text("domain"); d == "" || d == "ai.onnx" {
			v.opset = o.number("version")
		}
	}
	if err := v.graph(m.message("graph"), nil); err != nil {
		return nil, err
	}
	return v.limits, nil
}

type vetter struct {
	folder string
	opset  int64
	values map[string]value // by name
	limits map[string]int64
}

// value is what is known about a named value of a model.
type value struct {
	ranked bool // rank is known
	rank   int
	kind   int64   // datatype; 0: not known
	consts []int64 // the values of a weight or constant of integers
	fixed  bool    // consts are known
	dims   []int64 // of a weight or constant
	input  string  // the model's input that has the same values, possibly in another form

	growing bool // a weight or constant of FLOAT whose values are all at least 1
}

// graph checks a graph. outer are the names that are known around a nested graph. It is nil for the
// model's own graph.
func (v *vetter) graph(g message, outer map[string]bool) error {
	known := map[string]bool{"": true}
	maps.Copy(known, outer)
	for _, kind := range []string{"input", "output", "value_info"} {
		for i := range g.messages(kind) {
			t := i.message("type").message("tensor_type")
			x := value{kind: t.field("elem_type").Int()}
			if x.ranked = t.has("shape"); x.ranked {
				x.rank = t.message("shape").count("dim")
			}
			if kind == "input" {
				known[i.text("name")] = true
				if outer == nil {
					x.input = i.text("name")
				}
			}
			v.values[i.text("name")] = x
		}
	}
	for t := range g.messages("initializer") {
		known[t.text("name")] = true
		if err := v.weight(t.text("name"), t); err != nil {
			return err
		}
	}
	for n := range g.messages("node") {
		op := n.text("op_type")
		for _, name := range n.texts("input") {
			if !known[name] {
				return fmt.Errorf("operator %s takes %q, which is not defined before it", op, name)
			}
		}
		outputs := n.texts("output")
		attrs := map[string]message{}
		for a := range n.messages("attribute") {
			attrs[a.text("name")] = a
			if a.has("g") {
				if err := v.graph(a.message("g"), known); err != nil {
					return err
				}
			}
			if a.has("t") {
				name := ""
				if op == "Constant" && len(outputs) > 0 {
					name = outputs[0]
				}
				if err := v.weight(name, a.message("t")); err != nil {
					return err
				}
			}
		}
		if d := n.text("domain"); d == "" || d == "ai.onnx" {
			if what := v.node(op, n.texts("input"), outputs, attrs); what != "" {
				return fmt.Errorf("operator %s (opset %d) %s, which pure Go would compute wrongly; run the model in ONNX Runtime", op, v.opset, what)
			}
		}
		for _, name := range outputs {
			known[name] = true
		}
		v.infer(op, n.texts("input"), outputs)
	}
	return nil
}

// maxConsts is the largest number of values that are read from a weight. Shapes and steps have
// fewer.
const maxConsts = 64

// weight checks that a tensor of the file is not larger than its data, and that its data lie in the
// model's folder.
func (v *vetter) weight(name string, t message) error {
	n, err := t.elements()
	if err != nil {
		return fmt.Errorf("weight %q %w", name, err)
	}
	x := value{ranked: true, rank: t.count("dims"), dims: t.numbers("dims"), kind: t.number("data_type")}
	held := int64(0) // how many values the data have at most, at 4 bits or more each
	if t.field("data_location").Enum() == 1 {
		if held, err = v.outside(t); err != nil {
			return fmt.Errorf("weight %q: %w", name, err)
		}
	} else {
		held = int64(len(t.bytes("raw_data"))) * 2
		for _, kind := range []string{"float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"} {
			held += int64(t.count(kind)) * 2
		}
		if n <= maxConsts {
			x.consts, x.fixed = t.integers()
			x.growing = t.growing()
		}
	}
	if n > held {
		return fmt.Errorf("weight %q has fewer data than its shape says", name)
	}
	if name != "" {
		v.values[name] = x
	}
	return nil
}

// outside returns how many values of 4 bits fit into the data of a tensor whose data are in a file
// of their own.
func (v *vetter) outside(t message) (int64, error) {
	var location string
	var offset int64
	length := int64(-1)
	for e := range t.messages("external_data") {
		var err error
		switch text := e.text("value"); e.text("key") {
		case "location":
			location = text
		case "offset":
			offset, err = strconv.ParseInt(text, 10, 64)
		case "length":
			length, err = strconv.ParseInt(text, 10, 64)
		}
		if err != nil {
			return 0, err
		}
	}
	root, err := os.OpenRoot(v.folder)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	info, err := root.Stat(location) // root refuses dots and links that lead out of the folder
	if err != nil {
		return 0, fmt.Errorf("its data must lie in the model's folder: %w", err)
	}
	if !info.Mode().IsRegular() || offset < 0 || offset > info.Size() || length > info.Size()-offset {
		return 0, fmt.Errorf("its data reach beyond %s, which has %d bytes or is not a regular file", location, info.Size())
	}
	if length < 0 {
		length = info.Size() - offset
	}
	return length * 2, nil
}

// node returns what GoMLX would not compute as the operator's specification says, or "". The text
// follows the operator's name in the error.
func (v *vetter) node(op string, in, out []string, attrs map[string]message) string {
	number := func(name string, or int64) int64 {
		if a, ok := attrs[name]; ok {
			return a.number("i")
		}
		return or
	}
	text := func(name, or string) string {
		if a, ok := attrs[name]; ok {
			return string(a.bytes("s"))
		}
		return or
	}
	all := func(name string, of int64) bool {
		a, ok := attrs[name]
		return !ok || !slices.ContainsFunc(a.numbers("ints"), func(d int64) bool { return d != of })
	}
	at := func(names []string, i int) value {
		if i < len(names) {
			return v.values[names[i]]
		}
		return value{}
	}
	switch op {
	case "Constant":
		if a, ok := attrs["value_int"]; ok && len(out) > 0 {
			v.values[out[0]] = value{ranked: true, kind: typeInt64, consts: []int64{a.number("i")}, fixed: true}
		}
		if a, ok := attrs["value_ints"]; ok && len(out) > 0 {
			v.values[out[0]] = value{ranked: true, rank: 1, kind: typeInt64, consts: a.numbers("ints"), fixed: true}
		}
	case "Add", "Sub", "Mul", "Div", "And", "Or", "Xor", "Pow", "Equal", "Less", "Greater":
		if v.opset < 7 {
			return "broadcasts by attributes"
		}
	case "Clip":
		if v.opset < 11 && (attrs["min"].Message != nil || attrs["max"].Message != nil) {
			return "has its bounds in attributes"
		}
	case "Softmax", "LogSoftmax", "Hardmax":
		if axis := number("axis", 1); v.opset < 13 && axis != -1 {
			x := at(out, 0)
			if !x.ranked {
				x = at(in, 0)
			}
			if !x.ranked || axis != int64(x.rank)-1 {
				return "normalizes over several dimensions"
			}
		}
	case "MaxPool", "AveragePool":
		if attrs["strides"].Message == nil {
			return "has no strides"
		}
		if op == "AveragePool" && !all("dilations", 1) {
			return "has dilations"
		}
	case "Gelu":
		if text("approximate", "none") != "none" {
			return "is approximate"
		}
	case "ArgMax", "ArgMin":
		if number("select_last_index", 0) != 0 {
			return "selects the last index"
		}
	case "Split":
		if a, ok := attrs["split"]; ok {
			if sizes := a.numbers("ints"); len(sizes) > 0 && !all("split", sizes[0]) {
				return "has its sizes in an attribute"
			}
		}
	case "Slice":
		if x := at(in, 4); len(in) > 4 && in[4] != "" && (!x.fixed || slices.ContainsFunc(x.consts, func(s int64) bool { return s < 0 })) {
			return "may go backwards"
		}
	case "ReduceMean":
		if k := at(in, 0).kind; k != 0 && !floats[k] {
			return "averages integers"
		}
	case "Resize", "Upsample":
		mode, where := text("mode", "nearest"), text("coordinate_transformation_mode", "half_pixel")
		// If no dimension shrinks, half_pixel and pytorch_half_pixel give the same result:
		// they differ for a length of 1 only, at positions that are clamped.
		alike := where == "pytorch_half_pixel" && at(in, 2).growing
		if number("antialias", 0) != 0 || !(mode == "linear" && (alike || where != "pytorch_half_pixel") && where != "tf_crop_and_resize" ||
			mode == "nearest" && where == "asymmetric" && text("nearest_mode", "round_prefer_floor") == "floor") {
			return "has mode " + mode + ", " + where
		}
	case "Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Expand", "Transpose":
		// The output has the input's values, in another form.
		if len(in) > 0 && len(out) > 0 {
			x, from := v.values[out[0]], v.values[in[0]]
			x.input, x.consts, x.fixed = from.input, from.consts, from.fixed
			v.values[out[0]] = x
		}
	case "Concat":
		if len(out) > 0 {
			x := v.values[out[0]]
			x.consts, x.fixed = nil, true
			for i := range in {
				x.fixed = x.fixed && at(in, i).fixed && len(x.consts)+len(at(in, i).consts) <= maxConsts
				if x.fixed {
					x.consts = append(x.consts, at(in, i).consts...)
				}
			}
			v.values[out[0]] = x
		}
	case "Gather":
		from, indices := at(in, 0), at(in, 1)
		axis := number("axis", 0)
		if axis < 0 {
			axis += int64(len(from.dims))
		}
		if indices.input != "" && axis >= 0 && axis < int64(len(from.dims)) {
			n := from.dims[axis]
			if was, ok := v.limits[indices.input]; ok {
				n = min(n, was)
			}
			v.limits[indices.input] = n
		}
	}
	return ""
}

// floats are the floating-point datatypes of a TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16.
var floats = map[int64]bool{1: true, 10: true, 11: true, 16: true}

// infer sets the number of dimensions of a node's first output, if the model does not state it and
// it follows from the operator.
func (v *vetter) infer(op string, in, out []string) {
	if len(in) == 0 || len(out) == 0 || v.values[out[0]].ranked {
		return
	}
	first := v.values[in[0]]
	rank, ok := first.rank, first.ranked
	switch op {
	case "MatMul", "Add", "Sub", "Mul", "Div", "Pow", "Where":
		for _, name := range in[1:] {
			rank, ok = max(rank, v.values[name].rank), ok && v.values[name].ranked
		}
		if op == "MatMul" && rank < 2 {
			ok = false // vectors lose dimensions
		}
	case "Reshape":
		if len(in) < 2 {
			return
		}
		shape := v.values[in[1]]
		rank, ok = len(shape.consts), shape.fixed
	case "Flatten", "Gemm":
		rank, ok = 2, true
	case "Transpose", "Identity", "Cast", "Relu", "Sigmoid", "Tanh", "Erf", "Sqrt", "Exp", "Neg", "Clip", "Softmax", "LogSoftmax", "Concat", "Dropout",
		"LayerNormalization", "BatchNormalization", "Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Elu", "Slice":
	default:
		return
	}
	if ok {
		x := v.values[out[0]]
		x.ranked, x.rank = true, rank
		v.values[out[0]] = x
	}
}
