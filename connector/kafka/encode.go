package kafka

import (
	"bytes"
	"encoding/json"

	"github.com/tensorferry/tensorferry/async"
)

// Encode makes the record of a result. It may leave the topic empty if the sink has one. It must
// not keep r, and the record that it returns belongs to the sink. An error is the result's own
// fault, so it ends the job. Encode is called from several goroutines. JSONValue and RawValue are
// ready-made.
//
// If the result is part of a sampled trace, the sink adds the headers traceparent and tracestate,
// unless Encode has set traceparent.
type Encode[T any] func(r *async.Record[T]) (*Record, error)

// JSONValue is an Encode that writes a result as JSON, by the rules of encoding/json, under the key
// of the record that it was made of. The characters <, > and & stay as they are.
func JSONValue[T any](r *async.Record[T]) (*Record, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(&r.Value); err != nil {
		return nil, err
	}
	return &Record{Key: keyOf(r.Key), Value: bytes.TrimSuffix(b.Bytes(), []byte{'\n'})}, nil
}

// RawValue is an Encode that writes a result as it is, byte for byte, under the key of the record
// that it was made of.
func RawValue[T ~[]byte](r *async.Record[T]) (*Record, error) {
	return &Record{Key: keyOf(r.Key), Value: r.Value}, nil
}

// keyOf returns nil for a record without a key, since an empty key would count as a key.
func keyOf(key string) []byte {
	if key == "" {
		return nil
	}
	return []byte(key)
}
