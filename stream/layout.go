package stream

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A value in a checkpoint is a tag, which says what kind of value it is, and its content. Numbers
// are varints. Lengths and counts are unsigned varints. The elements of a list or a map have one
// type, so their tag is written once. The fields of a struct are written with their names: a later
// version of the program may have more fields, or the same in another order.
const (
	tagBool       = 'o' // 0 or 1
	tagInt        = 'i' // signed, of any size
	tagUint       = 'u'
	tagFloat32    = 'f' // the bits, the last byte first, so that round numbers are short
	tagFloat64    = 'd'
	tagComplex64  = 'c' // two floats
	tagComplex128 = 'z'
	tagString     = 's' // length, bytes
	tagBytes      = 'b' // 0 for nil, or length+1, bytes
	tagByteArray  = 'k' // length, bytes
	tagSlice      = 'l' // 0 for nil, or count+1, tag, contents
	tagArray      = 'a' // count, tag, contents
	tagPointer    = 'p' // 0 for nil; 1, tag, content for a new one; n+2 for the nth that was met
	tagMap        = 'm' // 0 for nil; 1, count, two tags, contents for a new one; n+2
	tagStruct     = 'r' // count; name, tag and content of each field
	tagTime       = 't' // see layoutWriter.time
	tagGob        = 'g' // length, the bytes of the type's own method; the same for the next three
	tagBinary     = 'y'
	tagText       = 'x'
	tagJSON       = 'j'
)

// layout says how values of a type are written in a checkpoint. It is made once and then only read.
type layout struct {
	tag    byte
	typ    reflect.Type
	key    *layout
	elem   *layout
	fields []fieldLayout
	pair   *methodPair
}

type fieldLayout struct {
	name  string
	index int
	head  []byte // length of the name, name, tag
	*layout
}

// methodPair are methods by which a type writes and reads itself.
type methodPair struct {
	tag                byte
	writes, reads      reflect.Type
	writer, reader     string
	write              func(v any) ([]byte, error)
	read               func(v any, data []byte) error
	methodOf, readerOf func(t reflect.Type) (reflect.Method, bool)
}

type gobWriter interface{ GobEncode() ([]byte, error) }
type gobReader interface{ GobDecode([]byte) error }

// methodPairs are in the order of preference: the first are meant for storing values, the last for
// showing them. The linker keeps a method only if it is looked up by a constant name, so each name
// is written here.
var methodPairs = []methodPair{
	{tagGob, reflect.TypeFor[gobWriter](), reflect.TypeFor[gobReader](), "GobEncode", "GobDecode",
		func(v any) ([]byte, error) { return v.(gobWriter).GobEncode() },
		func(v any, data []byte) error { return v.(gobReader).GobDecode(data) },
		func(t reflect.Type) (reflect.Method, bool) { return t.MethodByName("GobEncode") },
		func(t reflect.Type) (reflect.Method, bool) { return t.MethodByName("GobDecode") }},
	{tagBinary, reflect.TypeFor[encoding.BinaryMarshaler](), reflect.TypeFor[encoding.BinaryUnmarshaler](), "MarshalBinary", "UnmarshalBinary",
		func(v any) ([]byte, error) { return v.(encoding.BinaryMarshaler).MarshalBinary() },
		func(v any, data []byte) error { return v.(encoding.BinaryUnmarshaler).UnmarshalBinary(data) },
		func(t reflect.Type) (reflect.Method, bool) { return t.MethodByName("MarshalBinary") },
		func(t reflect.Type) (reflect.Method, bool) { return t.MethodByName("UnmarshalBinary") }},
	{tagText, reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](), "MarshalText", "UnmarshalText",
		func(v any) ([]byte, error) { return v.(encoding.TextMarshaler).MarshalText() },
		func(v any, data []byte) error { return v.(encoding.TextUnmarshaler).UnmarshalText(data) },
		func(t reflect.Type) (reflect.Method, bool) { return t.MethodByName("MarshalText") },
		func(t reflect.Type) (reflect.Method, bool) { return t.MethodByName("UnmarshalText") }},
	{tagJSON, reflect.TypeFor[json.Marshaler](), reflect.TypeFor[json.Unmarshaler](), "MarshalJSON", "UnmarshalJSON",
		func(v any) ([]byte, error) { return v.(json.Marshaler).MarshalJSON() },
		func(v any, data []byte) error { return v.(json.Unmarshaler).UnmarshalJSON(data) },
		func(t reflect.Type) (reflect.Method, bool) { return t.MethodByName("MarshalJSON") },
		func(t reflect.Type) (reflect.Method, bool) { return t.MethodByName("UnmarshalJSON") }},
}

var timeType = reflect.TypeFor[time.Time]()

// layoutOf returns the layout of a type, or an error that says which part of it would be lost.
func layoutOf(t reflect.Type) (*layout, error) {
	l := layouter{made: map[reflect.Type]*layout{}}
	return l.of(t)
}

// layouter makes the layout of a type and of all that it consists of.
type layouter struct {
	made  map[reflect.Type]*layout // includes unfinished ones, since types may contain themselves
	order []reflect.Type           // of made
}

var simpleTags = map[reflect.Kind]byte{
	reflect.Bool: tagBool, reflect.String: tagString,
	reflect.Int: tagInt, reflect.Int8: tagInt, reflect.Int16: tagInt, reflect.Int32: tagInt, reflect.Int64: tagInt,
	reflect.Uint: tagUint, reflect.Uint8: tagUint, reflect.Uint16: tagUint, reflect.Uint32: tagUint, reflect.Uint64: tagUint,
	reflect.Float32: tagFloat32, reflect.Float64: tagFloat64, reflect.Complex64: tagComplex64, reflect.Complex128: tagComplex128,
}

// of returns the layout of t by its parts if they hold everything that t holds. Otherwise it
// returns the layout by t's own methods.
func (m *layouter) of(t reflect.Type) (*layout, error) {
	if l := m.made[t]; l != nil {
		return l, nil
	}
	l := &layout{typ: t}
	before := len(m.order)
	m.made[t], m.order = l, append(m.order, t)
	err := m.byParts(l)
	if err == nil {
		return l, nil
	}
	// Layouts that were made since then may refer to this one, so they are removed too.
	for _, made := range m.order[before:] {
		delete(m.made, made)
	}
	m.order = m.order[:before]
	*l = layout{typ: t}
	if err := l.byMethods(err); err != nil {
		return nil, err
	}
	m.made[t], m.order = l, append(m.order, t)
	return l, nil
}

func (m *layouter) byParts(l *layout) (err error) {
	t := l.typ
	if tag, ok := simpleTags[t.Kind()]; ok {
		l.tag = tag
		return nil
	}
	switch t.Kind() {
	case reflect.Slice:
		if l.tag = tagSlice; t.Elem().Kind() == reflect.Uint8 {
			l.tag = tagBytes
		}
	case reflect.Array:
		if l.tag = tagArray; t.Elem().Kind() == reflect.Uint8 {
			l.tag = tagByteArray
		}
	case reflect.Pointer:
		l.tag = tagPointer
	case reflect.Map:
		l.tag = tagMap
		if l.key, err = m.of(t.Key()); err != nil {
			return err
		}
	case reflect.Struct:
		if t == timeType {
			l.tag = tagTime
			return nil
		}
		l.tag = tagStruct
		return m.ofFields(l)
	case reflect.Interface:
		return fmt.Errorf("%v is an interface, and its value would come back as another type", t)
	default:
		return fmt.Errorf("%v means nothing in another process", t)
	}
	l.elem, err = m.of(t.Elem())
	return err
}

func (m *layouter) ofFields(l *layout) error {
	for i := range l.typ.NumField() {
		f := l.typ.Field(i)
		if !f.IsExported() && f.Type.Size() == 0 || f.Name == "_" {
			continue // holds no data
		}
		in := func(why string) error { return partError(fmt.Sprintf("field %s of %v %s", f.Name, l.typ, why)) }
		if !f.IsExported() && !(f.Anonymous && f.Type.Kind() == reflect.Struct) {
			return in("is not exported")
		}
		of, err := m.of(f.Type)
		if _, named := errors.AsType[partError](err); err != nil && !named {
			return in("cannot be kept: " + err.Error())
		}
		if err != nil {
			return err
		}
		if !f.IsExported() && of.tag != tagStruct {
			return in("is not exported") // only the fields of an embedded struct could be set
		}
		head := append(appendString(nil, f.Name), of.tag)
		l.fields = append(l.fields, fieldLayout{f.Name, i, head, of})
	}
	return nil
}

// partError says which field of a type would be lost.
type partError string

func (e partError) Error() string { return string(e) }

// byMethods makes the layout of a type by methods of its own that write and read it. why says why
// its parts do not suffice.
func (l *layout) byMethods(why error) error {
	if l.typ.Name() == "" {
		return why
	}
	p := reflect.PointerTo(l.typ)
	for i := range methodPairs {
		pair := &methodPairs[i]
		writes, reads := p.Implements(pair.writes), p.Implements(pair.reads)
		switch {
		case l.typ.Kind() == reflect.Interface:
		case !writes:
		case !reads:
			why = partError(fmt.Sprintf("%v, and the type has %s but not %s", why, pair.writer, pair.reader))
		case l.inherits(pair.writer, pair.methodOf) || l.inherits(pair.reader, pair.readerOf):
			why = partError(fmt.Sprintf("%v, and %s belongs to an embedded field and keeps only that", why, pair.writer))
		default:
			l.tag, l.pair = pair.tag, pair
			return nil
		}
	}
	return why
}

// inherits reports whether a struct has a method only because one of its embedded fields has it.
// Such a method does not know the other fields.
func (l *layout) inherits(name string, methodOf func(reflect.Type) (reflect.Method, bool)) bool {
	if l.typ.Kind() != reflect.Struct {
		return false
	}
	var embedded []string // the methods of embedded fields
	for i := range l.typ.NumField() {
		if f := l.typ.Field(i); f.Anonymous {
			embedded = append(embedded, written(f.Type, methodOf)...)
			if _, has := methodOf(reflect.PointerTo(f.Type)); has {
				embedded = append(embedded, name)
			} else if _, has := methodOf(f.Type); has {
				embedded = append(embedded, name)
			}
		}
	}
	if embedded == nil {
		return false
	}
	return !slices.ContainsFunc(written(l.typ, methodOf), func(own string) bool { return !slices.Contains(embedded, own) })
}

// written returns the names of the functions that a programmer wrote for a method of a type or of
// pointers to it. The compiler makes wrappers, which only pass the call on and are left out. If the
// compiler inlines the whole function into a wrapper, the wrapper has the function's name.
func written(t reflect.Type, methodOf func(reflect.Type) (reflect.Method, bool)) (names []string) {
	for _, t := range []reflect.Type{t, reflect.PointerTo(t)} {
		m, ok := methodOf(t)
		if !ok || t.Kind() == reflect.Interface {
			continue
		}
		pc := m.Func.Pointer()
		f := runtime.FuncForPC(pc)
		if file, _ := f.FileLine(pc); !strings.HasPrefix(file, "<") {
			names = append(names, f.Name())
		}
	}
	return names
}
