package stream

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
)

// Serializer keeps values in checkpoints. It is shared between subtasks and must be
// safe for concurrent use. What Append wrote, Decode must give back equal, also in
// a later version of the program.
type Serializer[T any] interface {
	Append(dst []byte, v T) ([]byte, error)
	// Decode may keep data.
	Decode(data []byte) (T, error)
}

// jsonSerializer is the default.
type jsonSerializer[T any] struct{}

func (jsonSerializer[T]) Append(dst []byte, v T) ([]byte, error) {
	if raw, ok := any(v).(json.RawMessage); ok && raw != nil {
		return append(dst, raw...), nil // digit for digit, also where it is not compact
	}
	data, err := json.Marshal(v)
	return append(dst, data...), err
}

func (jsonSerializer[T]) Decode(data []byte) (v T, err error) {
	if raw, ok := any(&v).(*json.RawMessage); ok {
		*raw = data
		return v, nil
	}
	err = json.Unmarshal(data, &v)
	return v, err
}

// refusing stands in where JSON would lose a part of the value.
type refusing[T any] struct{ err error }

func (r refusing[T]) Append(dst []byte, _ T) ([]byte, error) { return dst, r.err }
func (r refusing[T]) Decode([]byte) (v T, err error)         { return v, r.err }

// serializerFor returns the serializer for records of type T: the given one, else JSON, if
// that keeps every part of T.
func serializerFor[T any](given any) (Serializer[T], error) {
	if given != nil {
		s, ok := given.(Serializer[T])
		if !ok {
			return nil, fmt.Errorf("the serializer is a %T; want one for records of type %v", given, reflect.TypeFor[T]())
		}
		return s, nil
	}
	if why := lossy(reflect.TypeFor[T](), map[reflect.Type]bool{}); why != "" {
		err := fmt.Errorf("the snapshot policy keeps records of type %v in checkpoints, and JSON cannot: %s; "+
			"set stream.WithSerializer, or the drain policy", reflect.TypeFor[T](), why)
		return refusing[T]{err}, err
	}
	return jsonSerializer[T]{}, nil
}

var (
	marshaler   = reflect.TypeFor[json.Marshaler]()
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textWriter  = reflect.TypeFor[encoding.TextMarshaler]()
	textReader  = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// lossy says what JSON would lose or refuse of a type, and "" if it keeps everything.
func lossy(t reflect.Type, seen map[reflect.Type]bool) string {
	if seen[t] {
		return ""
	}
	seen[t] = true
	p := reflect.PointerTo(t)
	if (p.Implements(marshaler) && p.Implements(unmarshaler)) || (p.Implements(textWriter) && p.Implements(textReader)) {
		return ""
	}
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer, reflect.Uintptr:
		return fmt.Sprintf("%v has no JSON form", t)
	case reflect.Interface:
		return fmt.Sprintf("what is in the interface %v comes back as another type", t)
	case reflect.Map:
		if why := lossy(t.Key(), seen); why != "" {
			return why
		}
		return lossy(t.Elem(), seen)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return lossy(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if !f.IsExported() && !f.Anonymous {
				return fmt.Sprintf("field %s of %v is not exported", f.Name, t)
			}
			if f.Tag.Get("json") == "-" {
				return fmt.Sprintf("field %s of %v is left out of JSON", f.Name, t)
			}
			if why := lossy(f.Type, seen); why != "" {
				return why
			}
		}
	}
	return ""
}
