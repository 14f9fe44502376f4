package file

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// Decode makes a value of a line. The line has no line feed at its end and no white space around
// it, and it is never empty. The value may keep the line's bytes: nothing writes to them again. An
// error fails the job at that line. Decode is called from several goroutines. JSON, Raw and
// Unchecked are ready-made.
type Decode[T any] func(line []byte) (T, error)

// JSON is a Decode that makes a value of a line of JSON, by the rules of encoding/json.
func JSON[T any](line []byte) (v T, err error) {
	if err := json.Unmarshal(line, &v); err != nil {
		return v, fmt.Errorf("it is not JSON of the wanted type: %w", err)
	}
	return v, nil
}

// Raw is a Decode that keeps a line as it is, byte for byte. A line that is not JSON fails. Raw
// copies nothing, so a value keeps up to 128 KiB of the input around it in memory.
func Raw(line []byte) (json.RawMessage, error) {
	if json.Valid(line) {
		return line, nil
	}
	var value any
	if err := json.Unmarshal(line, &value); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err) // err says where
	}
	return nil, errors.New("it is not JSON")
}

// Unchecked is Raw without the check: a line that is not JSON is a record too. It is for a job
// whose operators judge their records.
func Unchecked(line []byte) (json.RawMessage, error) { return line, nil }

// decoder makes records of lines.
type decoder[T any] struct {
	decode Decode[T]
	time   func(T) (async.EventTime, error)
}

// record fills in r from a line. A panic of a user's function is an error of this line.
func (d *decoder[T]) record(r *async.Record[T], line []byte) (err error) {
	where := "Decode of the source"
	defer func() {
		if v := recover(); v != nil {
			err = guard.Caught(where, v)
		}
	}()
	r.Time = async.NoTime
	if r.Value, err = d.decode(line); err != nil {
		return fmt.Errorf("the line cannot be decoded: %w", guard.Error(where, err))
	}
	if where = "Time of the source"; d.time != nil {
		if r.Time, err = d.time(r.Value); err != nil {
			return fmt.Errorf("the record's event time cannot be read: %w", guard.Error(where, err))
		}
	}
	return nil
}
