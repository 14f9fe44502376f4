package jsoncodec

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/tensor"
)

// decoder writes results. It is safe for concurrent use.
type decoder struct {
	outs      []output
	overwrite bool
	odd       *atomic.Int64 // counts values that are NaN or infinite
	pool      sync.Pool     // of *result
}

// output is one of the model's outputs, and the field that it goes to.
type output struct {
	index int
	field string
	key   []byte // the field's name as JSON, and the colon
	fixed []byte // a value that replaces the model's; index then has no meaning
	nan   NaN
}

// result is the buffer in which a result is built, before it is copied to a slice of its own size.
type result struct {
	buf  []byte
	done []bool // outputs that replaced a field
	scan scanner
	nan  NaN   // of the output that is written
	odd  int64 // elements that are NaN or infinite
}

func (d *decoder) decode(record []byte, src *tensor.Rows, row int) (json.RawMessage, error) {
	r, _ := d.pool.Get().(*result)
	if r == nil {
		r = &result{done: make([]bool, len(d.outs))}
	}
	defer d.pool.Put(r)
	r.odd = 0
	err := d.write(r, record, src, row)
	if d.odd != nil && r.odd > 0 {
		d.odd.Add(r.odd)
	}
	if err != nil {
		return nil, err
	}
	return slices.Clone(r.buf), nil
}

func (d *decoder) write(r *result, record []byte, src *tensor.Rows, row int) error {
	r.buf = r.buf[:0]
	clear(r.done)
	// Encode has read the record, so the last brace is the one that closes it.
	start, end := trim(record)
	if end-start < 2 || record[start] != '{' || record[end-1] != '}' {
		return fmt.Errorf("the record is not a JSON object")
	}
	from := start
	if d.overwrite {
		var err error
		if from, err = d.replace(r, record, start, src, row); err != nil {
			return err
		}
	}
	end--
	for end > from && isSpace(record[end-1]) {
		end--
	}
	r.buf = append(r.buf, record[from:end]...)
	for i := range d.outs {
		if r.done[i] {
			continue
		}
		if r.buf[len(r.buf)-1] != '{' || len(r.buf) > 1 {
			r.buf = append(r.buf, ',')
		}
		r.buf = append(r.buf, d.outs[i].key...)
		if err := d.value(r, i, src, row); err != nil {
			return err
		}
	}
	r.buf = append(r.buf, '}')
	return nil
}

// replace copies the record up to the last field that an output replaces, and returns where the
// rest begins.
func (d *decoder) replace(r *result, record []byte, start int, src *tensor.Rows, row int) (int, error) {
	s := &r.scan
	s.data, s.pos = record, start
	defer func() { s.data = nil }()
	if err := s.open(0); err != nil {
		return 0, err
	}
	from := start
	for first := true; ; first = false {
		more, err := s.next(true, first)
		if !more {
			return from, err
		}
		name, escaped, err := s.name()
		if err != nil {
			return 0, err
		}
		at := s.pos
		if err := s.skip(1); err != nil {
			return 0, err
		}
		if escaped {
			var ok bool
			if name, ok = s.unescape(name); !ok {
				continue
			}
		}
		for i := range d.outs {
			if d.outs[i].field != string(name) {
				continue
			}
			r.buf = append(r.buf, record[from:at]...)
			if err := d.value(r, i, src, row); err != nil {
				return 0, err
			}
			r.done[i], from = true, s.pos
		}
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func trim(record []byte) (start, end int) {
	end = len(record)
	for start < end && isSpace(record[start]) {
		start++
	}
	for end > start && isSpace(record[end-1]) {
		end--
	}
	return start, end
}

// value writes the value of output i.
func (d *decoder) value(r *result, i int, src *tensor.Rows, row int) error {
	o := &d.outs[i]
	if o.fixed != nil {
		r.buf = append(r.buf, o.fixed...)
		return nil
	}
	r.nan = o.nan
	return r.value(src.Output(o.index), row)
}

// value writes a row of an output. The model's shape decides whether it is an array, not the data:
// if the model leaves the length open, one element is an array of one.
func (r *result) value(o *tensor.Output, row int) error {
	shape, declared := o.RowShape(), o.Spec().Row
	if len(declared) == 0 || len(declared) == 1 && declared[0] == 1 {
		return r.element(o, row, 0)
	}
	if o.RowElements() == 0 {
		// Only here can the shape claim more than the data holds.
		arrays := int64(1)
		for _, d := range shape {
			if d > maxEmpty || arrays*d > maxEmpty {
				return unusable(o, "a row of shape %v, which is %d or more empty arrays", shape, maxEmpty)
			}
			if arrays *= d; d == 0 {
				break
			}
		}
	}
	_, err := r.array(o, row, shape, 0)
	return err
}

// maxEmpty bounds the arrays of a row without elements.
const maxEmpty = 1 << 16

// array writes the elements of the given shape, from j on, and returns the index after them.
func (r *result) array(o *tensor.Output, row int, shape tensor.Shape, j int) (int, error) {
	r.buf = append(r.buf, '[')
	for i := range shape[0] {
		if i > 0 {
			r.buf = append(r.buf, ',')
		}
		var err error
		if len(shape) > 1 {
			j, err = r.array(o, row, shape[1:], j)
		} else {
			err = r.element(o, row, j)
			j++
		}
		if err != nil {
			return j, err
		}
	}
	r.buf = append(r.buf, ']')
	return j, nil
}

func (r *result) element(o *tensor.Output, row, j int) error {
	bits := 32
	switch o.Spec().DType {
	case tensor.Bool:
		r.buf = strconv.AppendBool(r.buf, o.BoolAt(row, j))
		return nil
	case tensor.Bytes:
		v := o.BytesAt(row, j)
		if !utf8.Valid(v) {
			return unusable(o, "element %d is not UTF-8, so no JSON string can hold it", j)
		}
		r.buf = appendString(r.buf, v)
		return nil
	case tensor.Uint64:
		r.buf = strconv.AppendUint(r.buf, uint64(o.Int(row, j)), 10)
		return nil
	case tensor.FP64:
		bits = 64
	case tensor.FP32, tensor.FP16, tensor.BF16:
	default:
		r.buf = strconv.AppendInt(r.buf, o.Int(row, j), 10)
		return nil
	}
	v := o.Number(row, j)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return r.notNumber(o, j, v)
	}
	r.buf = appendFloat(r.buf, v, bits)
	return nil
}

// notNumber writes NaN or an infinity.
func (r *result) notNumber(o *tensor.Output, j int, v float64) error {
	r.odd++
	switch {
	case r.nan == NaNFail:
		return unusable(o, "element %d is %v, which is not a number in JSON; nan can put null or a string there", j, v)
	case r.nan != NaNString:
		r.buf = append(r.buf, "null"...)
	case math.IsNaN(v):
		r.buf = append(r.buf, `"NaN"`...)
	case v > 0:
		r.buf = append(r.buf, `"Infinity"`...)
	default:
		r.buf = append(r.buf, `"-Infinity"`...)
	}
	return nil
}

// unusable returns an error that is the model's fault, whatever the record is.
func unusable(o *tensor.Output, format string, args ...any) error {
	return fmt.Errorf("output %q: %w: "+format, append([]any{o.Spec().Name, tensor.ErrAnswer}, args...)...)
}

// appendFloat writes the fewest digits that give v again. Very small and very large numbers get an
// exponent.
func appendFloat(b []byte, v float64, bits int) []byte {
	form := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		form = 'e'
	}
	return strconv.AppendFloat(b, v, form, -1, bits)
}

// appendString writes a JSON string. It escapes only what it must.
func appendString(b, text []byte) []byte {
	b = append(b, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < 0x20:
			b = append(b, '\\', 'u', '0', '0', '0'+c>>4, "0123456789abcdef"[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
