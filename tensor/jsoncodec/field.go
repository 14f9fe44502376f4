package jsoncodec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Field is a field of a JSON object, with its name and its value.
type Field struct {
	Name string
	// Value is its value, as JSON.
	Value json.RawMessage
}

// Merge returns the record with the fields added in their order, as if a model had answered with
// them. The record's own bytes are kept. If the record already has a field, that is an error, or,
// with overwrite, the field's value is replaced in its place. It is also an error if the record is
// not one JSON object, if two fields have the same name, or if a value is not JSON. Merge is safe
// for concurrent use.
func Merge(record json.RawMessage, fields []Field, overwrite bool) (json.RawMessage, error) {
	r := &row{}
	r.enc.overwrite, r.dec.overwrite = overwrite, overwrite
	r.enc.root = &node{output: -1}
	for i, f := range fields {
		switch {
		case !utf8.ValidString(f.Name):
			return nil, fmt.Errorf("the name of field %q is not UTF-8", f.Name)
		case !json.Valid(f.Value):
			return nil, fmt.Errorf("the value of field %q is not JSON: %.40q", f.Name, f.Value)
		}
		for _, other := range fields[:i] {
			if other.Name == f.Name {
				return nil, fmt.Errorf("field %q is given twice", f.Name)
			}
		}
		r.add(f.Name, output{field: f.Name, fixed: f.Value})
	}
	// Without inputs this only checks the record.
	if err := r.enc.encode(nil, record); err != nil {
		return nil, err
	}
	return r.dec.decode(record, nil, 0)
}

// AppendField appends record to dst, up to the place for the value of one more field, which is the
// last. The caller appends that value and a closing brace. AppendField does not check the record:
// invalid JSON stays invalid, and a record that has such a field already then has it twice. If the
// record does not begin and end like an object, ok is false and dst is unchanged.
func AppendField(dst []byte, record json.RawMessage, name string) (open []byte, ok bool) {
	start, end := trim(record)
	if end-start < 2 || record[start] != '{' || record[end-1] != '}' {
		return dst, false
	}
	for end--; end > start && isSpace(record[end-1]); {
		end--
	}
	dst = append(dst, record[start:end]...)
	if end-start > 1 {
		dst = append(dst, ',')
	}
	return append(AppendString(dst, name), ':'), true
}

// AppendString appends a text as a JSON string. Invalid UTF-8 in it becomes U+FFFD.
func AppendString[T ~string | ~[]byte](dst []byte, text T) []byte {
	b := []byte(text)
	if !utf8.Valid(b) {
		b = bytes.ToValidUTF8(b, []byte("\uFFFD"))
	}
	return appendString(dst, b)
}

// Scalar returns the text of a field that is a string, a number, true or false. For a string that
// is its unescaped content, and otherwise the bytes of the value. path leads to the field through
// objects. If several fields have the same name, the first one counts. ok is false if the field is
// missing, or is null, an object or an array, and if the record is not valid JSON up to the field.
// Scalar is safe for concurrent use.
func Scalar(record json.RawMessage, path []string) (text string, ok bool) {
	s := &scanner{data: record}
	s.space()
	for depth, name := range path {
		if !s.enter(name, depth) {
			return "", false
		}
	}
	start := s.pos
	switch c := s.peek(); {
	case c == '"':
		raw, escaped, err := s.str()
		if err != nil {
			return "", false
		}
		if escaped {
			if plain, ok := s.unescape(raw); ok {
				raw = plain
			}
		}
		return string(raw), true
	case c == '{', c == '[', c == 'n', s.skip(len(path)) != nil:
		return "", false
	}
	return string(record[start:s.pos]), true
}

// enter moves to the value of a field of the object that begins here. It returns false if the
// object lacks the field.
func (s *scanner) enter(field string, depth int) bool {
	if s.peek() != '{' || s.open(depth) != nil {
		return false
	}
	for first := true; ; first = false {
		if more, err := s.next(true, first); !more || err != nil {
			return false
		}
		name, escaped, err := s.name()
		if err != nil {
			return false
		}
		if escaped {
			if plain, ok := s.unescape(name); ok {
				name = plain
			}
		}
		if string(name) == field {
			return true
		}
		if s.skip(depth+1) != nil {
			return false
		}
	}
}
