package file

import (
	"bytes"
	"encoding/json"
	"errors"
)

var errNotObject = errors.New("the record is not a JSON object")

// topField returns the value of an object's field, or nil if the object does not have it. If
// several fields have the name, the last one counts. The record must be valid JSON. For other
// records topField returns an error or some part of the record.
func topField(record []byte, name string) (value []byte, err error) {
	i := skipSpace(record, 0)
	if i == len(record) || record[i] != '{' {
		return nil, errNotObject
	}
	i++
	for {
		i = skipSpace(record, i)
		if i < len(record) && (record[i] == '}' || record[i] == ',') {
			if record[i] == '}' {
				return value, nil
			}
			i = skipSpace(record, i+1)
		}
		keyEnd := skipString(record, i)
		if keyEnd < 0 {
			return nil, errNotObject
		}
		key := record[i:keyEnd]
		i = skipSpace(record, keyEnd)
		if i == len(record) || record[i] != ':' {
			return nil, errNotObject
		}
		i = skipSpace(record, i+1)
		end := skipValue(record, i)
		if end < 0 {
			return nil, errNotObject
		}
		if isKey(key, name) {
			value = record[i:end]
		}
		i = end
	}
}

func isKey(quoted []byte, name string) bool {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner) == name
	}
	var s string
	return json.Unmarshal(quoted, &s) == nil && s == name
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the index after the string that begins at i, or -1 if no string begins there.
func skipString(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// skipValue returns the index after the value that begins at i, or -1 if no value begins there.
func skipValue(b []byte, i int) int {
	if i < len(b) && b[i] == '"' {
		return skipString(b, i)
	}
	depth := 0
	for start := i; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			end := skipString(b, i)
			if end < 0 {
				return -1
			}
			i = end - 1
		case c == '{' || c == '[':
			depth++
		case depth > 0 && (c == '}' || c == ']'):
			if depth--; depth == 0 {
				return i + 1
			}
		case depth == 0 && (c == ',' || c == '}' || c == ']' || c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			if i == start {
				return -1
			}
			return i
		}
	}
	return -1
}
