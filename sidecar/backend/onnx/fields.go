package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// message is a protocol buffer message of a model file. GoMLX has Go types for these messages, but
// they are internal to it. So fields are read by their names in ONNX's definition (onnx.proto).
type message struct{ protoreflect.Message }

// parseModel reads a ModelProto.
func parseModel(data []byte) (message, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByName("protos.ModelProto")
	if err != nil {
		return message{}, err
	}
	m := kind.New()
	if err := proto.Unmarshal(data, m.Interface()); err != nil {
		return message{}, fmt.Errorf("not an ONNX model: %w", err)
	}
	return message{m}, nil
}

func (m message) field(name string) protoreflect.Value {
	return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
}

func (m message) has(name string) bool {
	return m.Has(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
}

func (m message) text(name string) string     { return m.field(name).String() }
func (m message) number(name string) int64    { return m.field(name).Int() }
func (m message) bytes(name string) []byte    { return m.field(name).Bytes() }
func (m message) message(name string) message { return message{m.field(name).Message()} }
func (m message) count(name string) int       { return m.field(name).List().Len() }

func (m message) messages(name string) iter.Seq[message] {
	l := m.field(name).List()
	return func(yield func(message) bool) {
		for i := range l.Len() {
			if !yield(message{l.Get(i).Message()}) {
				return
			}
		}
	}
}

func (m message) texts(name string) (all []string) {
	l := m.field(name).List()
	for i := range l.Len() {
		all = append(all, l.Get(i).String())
	}
	return all
}

func (m message) numbers(name string) (all []int64) {
	l := m.field(name).List()
	for i := range l.Len() {
		all = append(all, l.Get(i).Int())
	}
	return all
}

// Datatypes of a TensorProto.
const (
	typeFloat = 1
	typeInt32 = 6
	typeInt64 = 7
)

// integers returns the values of a TensorProto of INT32 or INT64 whose data are in the model file.
// ok is false for any other datatype.
func (m message) integers() (all []int64, ok bool) {
	raw, size := m.bytes("raw_data"), 8
	switch m.number("data_type") {
	case typeInt64:
		all = m.numbers("int64_data")
	case typeInt32:
		all, size = m.numbers("int32_data"), 4
	default:
		return nil, false
	}
	for ; len(raw) >= size; raw = raw[size:] {
		if size == 4 {
			all = append(all, int64(int32(binary.LittleEndian.Uint32(raw))))
		} else {
			all = append(all, int64(binary.LittleEndian.Uint64(raw)))
		}
	}
	return all, true
}

// elements returns the number of values in a TensorProto's shape.
func (m message) elements() (int64, error) {
	n := int64(1)
	for _, d := range m.numbers("dims") {
		if d < 0 || d > 0 && n > (1<<48)/d {
			return 0, errors.New("has an impossible shape")
		}
		n *= d
	}
	return n, nil
}

// growing reports whether a TensorProto of FLOAT has values in the model file, and all of them are
// at least 1. As the scales of an operator they mean that no dimension shrinks.
func (m message) growing() bool {
	if m.number("data_type") != typeFloat {
		return false
	}
	n := 0
	for l := m.field("float_data").List(); n < l.Len(); n++ {
		if !(l.Get(n).Float() >= 1) {
			return false
		}
	}
	for raw := m.bytes("raw_data"); len(raw) >= 4; raw, n = raw[4:], n+1 {
		if !(math.Float32frombits(binary.LittleEndian.Uint32(raw)) >= 1) {
			return false
		}
	}
	return n > 0
}
