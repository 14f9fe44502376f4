package jsoncodec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Field is a field of a JSON object.
type Field struct {
	Name string
	// Value is its value, as JSON.
	Value json.RawMessage
}

// Merge returns the record with the fields added, in their order, as if a model had given them: the
// record's own bytes are kept, and a field that it has already is an error, unless overwrite is
// set, which replaces it in its place. It is an error if the record is not one JSON object, or a
// field is there twice or no JSON. Merge may be called from any goroutine.
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

// AppendField appends to dst an object up to where the value of one more field, its last, belongs;
// the caller appends that and a closing brace. It does not look into the record: one that is no
// valid JSON becomes no valid JSON, and one that has such a field already has it twice then. ok is
// false, and dst as it was, if the record does not begin and end as an object does.
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

// AppendString appends a text as a JSON string. What is not UTF-8 in it becomes U+FFFD.
func AppendString[T ~string | ~[]byte](dst []byte, text T) []byte {
	b := []byte(text)
	if !utf8.Valid(b) {
		b = bytes.ToValidUTF8(b, []byte("\uFFFD"))
	}
	return appendString(dst, b)
}

// Scalar returns the text of a field that is a string, a number, true or false: a string's own
// text, else the bytes of the value. path leads to the field through objects; of several fields of
// one name the first counts. ok is false if there is no such field, if it is null, an object or an
// array, and if the record is not JSON up to there. Scalar may be called from any goroutine.
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

// enter goes to the value of a field of the object that begins here, and reports whether there is
// one.
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
