package server

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// scanned is what is seen of an inference request on the wire, before it is decoded.
type scanned struct {
	inputs, outputs, raws, parameters int
	dimensions                        int // of the tensor that has the most
	// the most memory that the request takes when it is decoded and its contents are made raw
	bytes int64
}

// The most memory that a decoded part takes besides its bytes, with the slack of slices and maps
// that grow.
const (
	scanTensor    = 2*8 + 320
	scanParameter = 512
	scanString    = 16
)

// scan walks a request on the wire. It allocates nothing. ok is false if it is not a message.
func scan(b []byte) (out scanned, ok bool) {
	ok = walk(b, func(n protowire.Number, typ protowire.Type, v []byte) bool {
		out.bytes += int64(len(v)) + scanString
		if typ != protowire.BytesType || n < 1 || n > 7 {
			out.bytes += int64(len(v)) // an unknown field, which the message keeps
			return true
		}
		switch n {
		case 4:
			return out.parameter(v)
		case 5:
			out.inputs++
			return out.tensor(v, true)
		case 6:
			out.outputs++
			return out.tensor(v, false)
		case 7:
			out.raws++
			out.bytes += 2 * 24
		}
		return true
	})
	return out, ok
}

func (s *scanned) parameter(v []byte) bool {
	s.parameters++
	s.bytes += scanParameter + int64(len(v))
	return true
}

// tensor walks an input or a requested output.
func (s *scanned) tensor(b []byte, input bool) bool {
	s.bytes += scanTensor
	dimensions := 0
	ok := walk(b, func(n protowire.Number, typ protowire.Type, v []byte) bool {
		s.bytes += scanString
		switch {
		case n == 2 && !input || n == 4 && input:
			return s.parameter(v)
		case n == 3 && input && typ == protowire.BytesType:
			dimensions += varints(v)
		case n == 3 && input:
			dimensions++
		case n == 5 && input && typ == protowire.BytesType:
			return s.contents(v)
		case n < 1 || n > 5:
			s.bytes += int64(len(v))
		}
		return true
	})
	s.dimensions = max(s.dimensions, dimensions)
	s.bytes += 2 * 8 * int64(dimensions)
	return ok
}

// contents walks typed contents. Their elements are decoded into slices that grow, and then made
// raw.
func (s *scanned) contents(b []byte) bool {
	sizes := [...]int64{0, 1, 4, 8, 4, 8, 4, 8}
	return walk(b, func(n protowire.Number, typ protowire.Type, v []byte) bool {
		switch {
		case n == 8:
			s.bytes += 2*24 + 3*int64(len(v)+4)
		case n >= 1 && n <= 7:
			elements := int64(1)
			if typ == protowire.BytesType {
				switch n {
				case 6:
					elements = int64(len(v) / 4)
				case 7:
					elements = int64(len(v) / 8)
				default:
					elements = int64(varints(v))
				}
			}
			s.bytes += 4 * elements * sizes[n]
		default:
			s.bytes += 2 * int64(len(v))
		}
		return true
	})
}

// varints counts the numbers in a packed field.
func varints(v []byte) (n int) {
	for _, c := range v {
		if c < 0x80 {
			n++
		}
	}
	return n
}

// walk calls f for each field of a message. It passes a field of bytes without its length.
func walk(b []byte, f func(n protowire.Number, typ protowire.Type, v []byte) bool) bool {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return false
		}
		v := b[:n]
		if typ == protowire.BytesType {
			v, _ = protowire.ConsumeBytes(v)
		}
		if !f(num, typ, v) {
			return false
		}
		b = b[n:]
	}
	return true
}

// tooLarge says which of the bounds a request exceeds, or returns "".
func (s *scanned) tooLarge(cfg *Config) string {
	for _, c := range []struct {
		what    string
		n, most int
		flag    string
	}{
		{"inputs", s.inputs, cfg.MaxTensors, "--max-tensors"},
		{"outputs that are asked for", s.outputs, cfg.MaxTensors, "--max-tensors"},
		{"raw contents", s.raws, cfg.MaxTensors, "--max-tensors"},
		{"parameters", s.parameters, cfg.MaxParameters, "--max-parameters"},
		{"dimensions of one tensor", s.dimensions, cfg.MaxDimensions, "--max-dimensions"},
	} {
		if c.n > c.most {
			return fmt.Sprintf("the request has %d %s; the server takes %d (%s)", c.n, c.what, c.most, c.flag)
		}
	}
	return ""
}
