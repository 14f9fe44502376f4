package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// Encode makes the line of a result, without a line feed at its end. It must not keep r. The line
// may share memory with the value: the sink only reads it, and only during the call of Write. JSON
// that spreads over several lines is written as one line; any other line with a line break in it is
// refused, and so is an empty one. An error is the record's own fault, so it ends the job. Encode
// is called from several goroutines. JSONLine and RawLine are ready-made.
type Encode[T any] func(r *async.Record[T]) ([]byte, error)

// JSONLine is an Encode that writes a value as a line of JSON, by the rules of encoding/json. The
// characters <, > and & stay as they are.
func JSONLine[T any](r *async.Record[T]) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(&r.Value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

// RawLine is an Encode that writes a value as it is, byte for byte. It does not check whether the
// value is JSON.
func RawLine(r *async.Record[json.RawMessage]) ([]byte, error) { return r.Value, nil }

// lineOf returns the line of a record, without a line feed. A panic of Encode is an error of this
// record.
func lineOf[T any](encode Encode[T], r *async.Record[T]) (line []byte, err error) {
	const where = "Encode of the sink"
	defer func() {
		if v := recover(); v != nil {
			err = guard.Caught(where, v)
		}
		if err != nil {
			err = &recordError{split: r.Split, position: r.Position, err: err}
		}
	}()
	if line, err = encode(r); err != nil {
		return nil, guard.Error(where, err)
	}
	if len(line) == 0 {
		return nil, errors.New("the record is empty, and an empty line is not a record")
	}
	if bytes.IndexByte(line, '\n') >= 0 || bytes.IndexByte(line, '\r') >= 0 {
		var one bytes.Buffer
		if err := json.Compact(&one, line); err != nil {
			return nil, fmt.Errorf("the line contains a line break and is not JSON: %w", err)
		}
		line = one.Bytes()
	}
	return line, nil
}

// recordError says which record cannot be written. It is the record's own fault, so the job ends
// without a restart.
type recordError struct {
	split    int
	position int64
	err      error
}

func (e *recordError) Error() string {
	return fmt.Sprintf("file: the result of split %d, position %d cannot be written: %v", e.split, e.position, e.err)
}

func (e *recordError) Unwrap() error { return e.err }

// Verdict makes a recordError an async.Failure.
func (e *recordError) Verdict() async.Verdict { return async.Verdict{Class: async.BadRecord} }
