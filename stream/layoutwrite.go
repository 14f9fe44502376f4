package stream

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"reflect"
	"time"
)

// deepest is how deep values may be nested. A deeper value most likely refers to itself.
const deepest = 100_000

var errTooDeep = fmt.Errorf("it refers to itself, or is nested more than %d deep; set stream.WithSerializer", deepest)

// layoutWriter writes one value and what belongs to it.
type layoutWriter struct {
	dst   []byte
	depth int
	// met are the pointers and maps that were written, in their order. A value to which several of
	// them point is written once, so it comes back shared, and a value may refer to itself.
	met   []reference
	index map[reference]int // of met, if there are many
}

// reference is a pointer or a map. A pointer to a struct and one to its first field have the same
// address, so the type is needed too.
type reference struct {
	address uintptr
	typ     reflect.Type
}

// fewReferences is how many references are found just as fast without an index.
const fewReferences = 8

// placeError says where in a value an error is. It names only the innermost place.
type placeError struct {
	place string
	err   error
}

func (e *placeError) Error() string { return e.place + ": " + e.err.Error() }
func (e *placeError) Unwrap() error { return e.err }

func inPart(err error, format string, args ...any) error {
	if _, placed := err.(*placeError); placed || err == errTooDeep {
		return err
	}
	return &placeError{fmt.Sprintf(format, args...), err}
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return append(dst, 0)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b))+1)
	return append(dst, b...)
}

func appendString[S string | []byte](dst []byte, s S) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func (w *layoutWriter) unsigned(v uint64) { w.dst = binary.AppendUvarint(w.dst, v) }
func (w *layoutWriter) signed(v int64)    { w.dst = binary.AppendVarint(w.dst, v) }

func (w *layoutWriter) float32(v float64) {
	w.unsigned(uint64(bits.ReverseBytes32(math.Float32bits(float32(v)))))
}

func (w *layoutWriter) float64(v float64) { w.unsigned(bits.ReverseBytes64(math.Float64bits(v))) }

// value writes the content of v, which can be addressed.
func (w *layoutWriter) value(l *layout, v reflect.Value) (err error) {
	switch l.tag {
	case tagBool:
		if v.Bool() {
			w.unsigned(1)
		} else {
			w.unsigned(0)
		}
	case tagInt:
		w.signed(v.Int())
	case tagUint:
		w.unsigned(v.Uint())
	case tagFloat32:
		w.float32(v.Float())
	case tagFloat64:
		w.float64(v.Float())
	case tagComplex64:
		w.float32(real(v.Complex()))
		w.float32(imag(v.Complex()))
	case tagComplex128:
		w.float64(real(v.Complex()))
		w.float64(imag(v.Complex()))
	case tagString:
		w.dst = appendString(w.dst, v.String())
	case tagBytes:
		w.dst = appendBytes(w.dst, v.Bytes())
	case tagByteArray:
		w.dst = appendString(w.dst, v.Bytes())
	case tagTime:
		w.time(*v.Addr().Interface().(*time.Time))
	case tagSlice, tagArray, tagPointer, tagMap, tagStruct:
		if w.depth == deepest {
			return errTooDeep
		}
		w.depth++
		err = w.parts(l, v)
		w.depth--
	default:
		data, err := l.pair.write(v.Addr().Interface())
		if err != nil {
			return fmt.Errorf("%s of %v: %w", l.pair.writer, l.typ, err)
		}
		w.dst = appendString(w.dst, data)
	}
	return err
}

// parts writes what consists of other values.
func (w *layoutWriter) parts(l *layout, v reflect.Value) error {
	switch l.tag {
	case tagPointer:
		if !w.refer(v) {
			return nil
		}
		w.dst = append(w.dst, l.elem.tag)
		return w.value(l.elem, v.Elem())
	case tagMap:
		if !w.refer(v) {
			return nil
		}
		w.unsigned(uint64(v.Len()))
		w.dst = append(w.dst, l.key.tag, l.elem.tag)
		key, elem := reflect.New(l.key.typ).Elem(), reflect.New(l.elem.typ).Elem()
		for i := v.MapRange(); i.Next(); {
			key.SetIterKey(i)
			elem.SetIterValue(i)
			if err := w.value(l.key, key); err != nil {
				return inPart(err, "a key")
			}
			if err := w.value(l.elem, elem); err != nil {
				return inPart(err, "the element of a key")
			}
		}
		return nil
	case tagStruct:
		w.unsigned(uint64(len(l.fields)))
		for i := range l.fields {
			f := &l.fields[i]
			w.dst = append(w.dst, f.head...)
			if err := w.value(f.layout, v.Field(f.index)); err != nil {
				return inPart(err, "field %s", f.name)
			}
		}
		return nil
	}
	n := v.Len()
	switch {
	case l.tag == tagArray:
		w.unsigned(uint64(n))
	case v.IsNil():
		w.unsigned(0)
		return nil
	default:
		w.unsigned(uint64(n) + 1)
	}
	w.dst = append(w.dst, l.elem.tag)
	for i := range n {
		if err := w.value(l.elem, v.Index(i)); err != nil {
			return inPart(err, "element %d", i)
		}
	}
	return nil
}

// refer writes a pointer or a map: nil, one that was met before, or a new one. It returns true for
// a new one, whose content must follow.
func (w *layoutWriter) refer(v reflect.Value) (follows bool) {
	if v.IsNil() {
		w.unsigned(0)
		return false
	}
	r := reference{v.Pointer(), v.Type()}
	if at, met := w.find(r); met {
		w.unsigned(uint64(at) + 2)
		return false
	}
	w.met = append(w.met, r)
	switch {
	case w.index != nil:
		w.index[r] = len(w.met) - 1
	case len(w.met) > fewReferences:
		w.index = map[reference]int{}
		for i, r := range w.met {
			w.index[r] = i
		}
	}
	w.unsigned(1)
	return true
}

func (w *layoutWriter) find(r reference) (at int, met bool) {
	if w.index != nil {
		at, met = w.index[r]
		return at, met
	}
	for i := range w.met {
		if w.met[i] == r {
			return i, true
		}
	}
	return 0, false
}

// Kinds of locations of a time.
const (
	inUTC   = iota
	inLocal // of the process
	inZone  // a fixed offset
	inPlace // a place in the database of time zones
)

// time writes the second, the nanosecond and the kind of the time's location. Except for UTC it
// also writes the offset and a name. The reading of a monotonic clock is left out, since it means
// nothing in another process.
func (w *layoutWriter) time(t time.Time) {
	w.signed(t.Unix())
	w.unsigned(uint64(t.Nanosecond()))
	if t.Location() == time.UTC {
		w.unsigned(inUTC)
		return
	}
	zone, offset := t.Zone()
	name := t.Location().String()
	where := uint64(inPlace)
	if t.Location() == time.Local {
		where, name = inLocal, zone
	} else if later, _ := t.AddDate(0, 6, 0).Zone(); zone == name && later == name {
		where = inZone // a few places with the name of a zone, such as EST, have no other zone
	}
	w.unsigned(where)
	w.signed(int64(offset))
	w.dst = appendString(w.dst, name)
}
