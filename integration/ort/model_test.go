//go:build integration

package ort_test

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tensorferry/tensorferry/tensor"
)

// elements are ONNX's numbers of the datatypes.
var elements = map[tensor.DType]uint64{
	tensor.FP32: 1, tensor.Uint8: 2, tensor.Int8: 3, tensor.Uint16: 4, tensor.Int16: 5, tensor.Int32: 6, tensor.Int64: 7,
	tensor.Bytes: 8, tensor.Bool: 9, tensor.FP16: 10, tensor.FP64: 11, tensor.Uint32: 12, tensor.Uint64: 13, tensor.BF16: 16,
}

type node struct {
	op  string
	in  []string
	out string
	to  uint64 // the attribute; 0: none
}

// msg builds a message of ONNX's protobuf.
type msg []byte

func (m msg) text(field protowire.Number, s string) msg {
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), s)
}

func (m msg) sub(field protowire.Number, s msg) msg { return m.text(field, string(s)) }

func (m msg) number(field protowire.Number, n uint64) msg {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), n)
}

func value(s tensor.Spec) msg {
	var shape msg
	for _, d := range s.Row {
		if d < 0 {
			shape = shape.sub(1, msg{}.text(2, "any"))
		} else {
			shape = shape.sub(1, msg{}.number(1, uint64(d)))
		}
	}
	t := msg{}.number(1, elements[s.DType]).sub(2, shape)
	return msg{}.text(1, s.Name).sub(2, msg{}.sub(1, t))
}

// write makes the file of a model. The specs' rows are whole shapes; a dimension of -1 is of any
// size.
func write(t testing.TB, ins, outs []tensor.Spec, nodes ...node) string {
	t.Helper()
	var graph msg
	for _, n := range nodes {
		var m msg
		for _, in := range n.in {
			m = m.text(1, in)
		}
		m = m.text(2, n.out).text(4, n.op)
		if n.to != 0 {
			m = m.sub(5, msg{}.text(1, "to").number(3, n.to).number(20, 2)) // an INT
		}
		graph = graph.sub(1, m)
	}
	graph = graph.text(2, "graph")
	for _, s := range ins {
		graph = graph.sub(11, value(s))
	}
	for _, s := range outs {
		graph = graph.sub(12, value(s))
	}
	model := msg{}.number(1, 8).sub(7, graph).sub(8, msg{}.text(1, "").number(2, 13))
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, model, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
