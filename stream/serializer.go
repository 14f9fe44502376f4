package stream

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// Serializer keeps values in checkpoints. All subtasks share it, so it must be safe for concurrent
// use. Decode must return a value that is equal to the one that Append wrote, also in a later
// version of the program.
type Serializer[T any] interface {
	// Append appends the form of v to dst and returns the longer slice.
	Append(dst []byte, v T) ([]byte, error)
	// Decode reads what Append wrote. It may keep data.
	Decode(data []byte) (T, error)
}

// layoutSerializer is the default. It writes values as the layout of their type says.
type layoutSerializer[T any] struct{ layout *layout }

func (s layoutSerializer[T]) Append(dst []byte, v T) ([]byte, error) {
	if raw, ok := any(&v).(*json.RawMessage); ok { // the records of the command's jobs
		return appendBytes(append(dst, tagBytes), *raw), nil
	}
	return appendValue(dst, s.layout, v)
}

func appendValue[T any](dst []byte, l *layout, v T) ([]byte, error) {
	w := layoutWriter{dst: append(dst, l.tag)}
	err := w.value(l, reflect.ValueOf(&v).Elem())
	return w.dst, err
}

func (s layoutSerializer[T]) Decode(data []byte) (v T, err error) {
	r := layoutReader{form: form{data: data}}
	err = r.whole(s.layout, reflect.ValueOf(&v).Elem())
	return v, err
}

// jsonSerializer reads what the default one wrote into checkpoints of version 1.
type jsonSerializer[T any] struct{}

func (jsonSerializer[T]) Decode(data []byte) (v T, err error) {
	if raw, ok := any(&v).(*json.RawMessage); ok {
		*raw = data
		return v, nil
	}
	err = json.Unmarshal(data, &v)
	return v, err
}

// refusing replaces the default serializer for a type of which it would lose a part.
type refusing[T any] struct{ err error }

func (r refusing[T]) Append(dst []byte, _ T) ([]byte, error) { return dst, r.err }
func (r refusing[T]) Decode([]byte) (v T, err error)         { return v, r.err }

// ownSerializer reports whether the user set the serializer.
func ownSerializer[T any](s Serializer[T]) bool {
	switch s.(type) {
	case layoutSerializer[T], refusing[T]:
		return false
	}
	return true
}

// serializerFor returns the serializer for records of type T: the given one, or otherwise the
// default one if that keeps every part of T.
func serializerFor[T any](given any) (Serializer[T], error) {
	t := reflect.TypeFor[T]()
	if given != nil {
		s, ok := given.(Serializer[T])
		if !ok {
			return nil, fmt.Errorf("the serializer is a %T; want one for records of type %v", given, t)
		}
		return s, nil
	}
	l, err := layoutOf(t)
	if err != nil {
		err = fmt.Errorf("the snapshot policy keeps records of type %v in checkpoints, but a restore would change them: %w; "+
			"set stream.WithSerializer, or the drain policy", t, err)
		return refusing[T]{err}, err
	}
	return layoutSerializer[T]{l}, nil
}
