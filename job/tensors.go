package job

import (
	"github.com/goccy/go-yaml/ast"

	"github.com/tensorferry/tensorferry/tensor"
)

// tensors reads the model's inputs and outputs.
func (d *decoder) tensors(v value) *Tensors {
	s := d.section(v, "inputs", "outputs")
	s.missing("inputs", "the model's inputs")
	s.missing("outputs", "the model's outputs")
	return &Tensors{Inputs: d.specs(s.values["inputs"]), Outputs: d.specs(s.values["outputs"])}
}

// specs reads tensors as a server would describe them.
func (d *decoder) specs(v value) (all []tensor.Spec) {
	if v.node == nil {
		return nil
	}
	before := len(d.faults)
	for _, t := range d.names(v, tensorName, "the name of a tensor") {
		s := d.section(t, "type", "shape")
		s.missing("type", "a datatype, such as FP32 or INT64")
		s.missing("shape", "a list of dimensions, such as [-1, 64]; -1 is a dimension of any size")
		spec := tensor.Spec{Name: t.key, Row: tensor.Shape{}}
		if v, ok := s.values["type"]; ok {
			var err error
			if spec.DType, err = tensor.ParseDType(d.text(v, "a datatype, such as FP32 or INT64")); err != nil {
				d.fault(position(v.node), "%s: %v", v.path, err)
			}
		}
		if v, ok := s.values["shape"]; ok {
			spec.Row = d.shape(v)
		}
		all = append(all, spec)
	}
	if len(all) == 0 && len(d.faults) == before {
		d.fault(v.at, "%s: want at least one tensor, such as %s", v.path, "name: {type: FP32, shape: [-1, 64]}")
	}
	return all
}

// shape reads a list of dimensions.
func (d *decoder) shape(v value) tensor.Shape {
	const want = "a list of dimensions, each -1 (any size) or a whole number from 0 on, such as [-1, 64]"
	if _, ok := v.node.(*ast.SequenceNode); !ok {
		d.wrong(v, want)
		return nil
	}
	shape := tensor.Shape{}
	for _, e := range elements(v) {
		n, ok := whole(e.node)
		if !ok || n < tensor.Dynamic || n > 1<<40 {
			d.wrong(e, want)
			return nil
		}
		shape = append(shape, n)
	}
	return shape
}
