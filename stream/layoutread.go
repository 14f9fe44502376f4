package stream

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"reflect"
	"time"
)

// layoutReader reads one value.
type layoutReader struct {
	form
	depth int
	met   []reflect.Value // pointers and maps, in their order
}

// whole reads a value that takes up all the bytes.
func (r *layoutReader) whole(l *layout, v reflect.Value) error {
	err := r.tag(l)
	if err == nil {
		err = r.value(l, v)
	}
	if err == nil && r.err == nil && len(r.data) > 0 {
		r.fail()
	}
	return errors.Join(err, r.err)
}

// tagNames are the names of tags in error messages.
var tagNames = map[byte]string{
	tagBool: "a truth value", tagInt: "a signed number", tagUint: "an unsigned number", tagFloat32: "a float32", tagFloat64: "a float64",
	tagComplex64: "a complex64", tagComplex128: "a complex128", tagString: "a string", tagBytes: "bytes", tagByteArray: "an array of bytes",
	tagSlice: "a slice", tagArray: "an array", tagPointer: "a pointer", tagMap: "a map", tagStruct: "a struct", tagTime: "a time",
	tagGob: "what GobEncode wrote", tagBinary: "what MarshalBinary wrote", tagText: "what MarshalText wrote", tagJSON: "what MarshalJSON wrote",
}

// changed returns the error for a value that does not fit its type in this program.
func changed(l *layout, format string, args ...any) error {
	return fmt.Errorf("the checkpoint holds %s, which does not fit into %v; resume with the program that wrote it, or change the type back",
		fmt.Sprintf(format, args...), l.typ)
}

// tag reads the tag of what comes next.
func (r *layoutReader) tag(l *layout) error {
	if len(r.data) == 0 {
		r.fail()
		return nil
	}
	tag := r.data[0]
	r.data = r.data[1:]
	name := tagNames[tag]
	switch {
	case tag == l.tag:
	case name == "":
		r.fail()
	default:
		return changed(l, "%s", name)
	}
	return nil
}

// count reads how many values follow. Each of them has at least one byte.
func (r *layoutReader) count() int {
	n := r.unsigned()
	if n > uint64(len(r.data)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *layoutReader) float32() float64 {
	v := r.word()
	if v > math.MaxUint32 {
		r.fail()
	}
	return float64(math.Float32frombits(bits.ReverseBytes32(uint32(v))))
}

func (r *layoutReader) float64() float64 { return math.Float64frombits(bits.ReverseBytes64(r.word())) }

// value reads the content of v, which can be set and is zero. Errors of the bytes themselves are in
// r.err.
func (r *layoutReader) value(l *layout, v reflect.Value) error {
	switch l.tag {
	case tagBool:
		v.SetBool(r.unsigned() == 1)
	case tagInt:
		n := r.signed()
		if v.OverflowInt(n) {
			return changed(l, "%d", n)
		}
		v.SetInt(n)
	case tagUint:
		n := r.word()
		if v.OverflowUint(n) {
			return changed(l, "%d", n)
		}
		v.SetUint(n)
	case tagFloat32:
		v.SetFloat(r.float32())
	case tagFloat64:
		v.SetFloat(r.float64())
	case tagComplex64:
		re := r.float32()
		v.SetComplex(complex(re, r.float32()))
	case tagComplex128:
		re := r.float64()
		v.SetComplex(complex(re, r.float64()))
	case tagString:
		v.SetString(string(r.bytes()))
	case tagBytes:
		if n := r.unsigned(); n > uint64(len(r.data))+1 {
			r.fail()
		} else if n > 0 {
			v.SetBytes(bytes.Clone(r.data[: n-1 : n-1])) // the checkpoint may be read again
			r.data = r.data[n-1:]
		}
	case tagByteArray:
		if b := r.bytes(); r.err == nil && len(b) != v.Len() {
			return changed(l, "%d bytes", len(b))
		} else {
			copy(v.Bytes(), b)
		}
	case tagTime:
		*v.Addr().Interface().(*time.Time) = r.time()
	case tagSlice, tagArray, tagPointer, tagMap, tagStruct:
		if r.depth == deepest {
			return errTooDeep
		}
		r.depth++
		err := r.parts(l, v)
		r.depth--
		return err
	default:
		data := r.bytes()
		if r.err != nil {
			return nil
		}
		if err := l.pair.read(v.Addr().Interface(), data); err != nil {
			return fmt.Errorf("%s of %v: %w", l.pair.reader, l.typ, err)
		}
	}
	return nil
}

// parts reads what consists of other values.
func (r *layoutReader) parts(l *layout, v reflect.Value) error {
	switch l.tag {
	case tagPointer:
		if !r.refer(v, func() reflect.Value { return reflect.New(l.typ.Elem()).Convert(l.typ) }) {
			return nil
		}
		if err := r.tag(l.elem); err != nil {
			return err
		}
		return r.value(l.elem, v.Elem())
	case tagMap:
		if !r.refer(v, func() reflect.Value { return reflect.MakeMap(l.typ) }) {
			return nil
		}
		n := r.count()
		if err := errors.Join(r.tag(l.key), r.tag(l.elem)); err != nil {
			return err
		}
		for ; n > 0 && r.err == nil; n-- {
			key, elem := reflect.New(l.key.typ).Elem(), reflect.New(l.elem.typ).Elem()
			if err := errors.Join(r.value(l.key, key), r.value(l.elem, elem)); err != nil {
				return err
			}
			v.SetMapIndex(key, elem)
		}
		return nil
	case tagStruct:
		return r.fields(l, v)
	}
	n := 0
	if l.tag == tagArray {
		if n = r.count(); r.err == nil && n != v.Len() {
			return changed(l, "%d elements", n)
		}
	} else {
		given := r.unsigned()
		if given == 0 {
			return nil
		}
		if given-1 > uint64(len(r.data)) {
			r.fail()
			return nil
		}
		n = int(given - 1)
		v.Set(reflect.MakeSlice(l.typ, 0, min(n, sliceSplit)))
	}
	if err := r.tag(l.elem); err != nil {
		return err
	}
	for i := 0; i < n && r.err == nil; i++ {
		if l.tag == tagSlice {
			v.Grow(1)
			v.SetLen(i + 1)
		}
		if err := r.value(l.elem, v.Index(i)); err != nil {
			return inPart(err, "element %d", i)
		}
	}
	return nil
}

// refer reads a pointer or a map: nil, one that was met before, or a new one. It returns true for a
// new one, whose content follows.
func (r *layoutReader) refer(v reflect.Value, make func() reflect.Value) (follows bool) {
	n := r.unsigned()
	switch {
	case n == 0 || r.err != nil:
		return false
	case n == 1:
		v.Set(make())
		r.met = append(r.met, reflect.ValueOf(v.Interface()))
		return true
	case n-2 >= uint64(len(r.met)) || r.met[n-2].Type() != v.Type():
		r.fail()
		return false
	}
	v.Set(r.met[n-2])
	return false
}

// fields reads a struct. A field that is missing in the checkpoint stays zero. A field that is
// missing in the type is an error, since its value would be lost.
func (r *layoutReader) fields(l *layout, v reflect.Value) error {
	n := r.count()
	for i := 0; i < n && r.err == nil; i++ {
		name := string(r.bytes())
		at := i // its place if the type has not changed
		if at >= len(l.fields) || l.fields[at].name != name {
			for at = 0; at < len(l.fields) && l.fields[at].name != name; at++ {
			}
		}
		if r.err != nil {
			return nil
		}
		if at == len(l.fields) {
			return changed(l, "a field %s", name)
		}
		f := &l.fields[at]
		err := r.tag(f.layout)
		if err == nil {
			err = r.value(f.layout, v.Field(f.index))
		}
		if err != nil {
			return inPart(err, "field %s", name)
		}
	}
	return nil
}

// time reads what layoutWriter.time wrote. For a place that this machine does not know it uses the
// offset.
func (r *layoutReader) time() time.Time {
	t := time.Unix(r.signed(), int64(r.unsigned()))
	where := r.unsigned()
	if where == inUTC {
		return t.UTC()
	}
	offset, name := int(r.signed()), string(r.bytes())
	zone := time.FixedZone(name, offset)
	switch where {
	case inLocal:
		if _, here := t.Zone(); here == offset {
			return t
		}
	case inZone:
	case inPlace:
		if place, err := time.LoadLocation(name); err == nil {
			if _, there := t.In(place).Zone(); there == offset {
				return t.In(place)
			}
		}
	default:
		r.fail()
	}
	return t.In(zone)
}
