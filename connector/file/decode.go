package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// decoder makes a value of a line.
type decoder[T any] struct {
	// value must not keep line, unless keeps is set: then the line's bytes are
	// the value's for good.
	value func(line []byte, v *T) error
	keeps bool
	time  func(T) (async.EventTime, error)
}

func decodeJSON[T any](line []byte, v *T) error { return json.Unmarshal(line, v) }

func rawDecoder(time func(json.RawMessage) (async.EventTime, error), unchecked bool) decoder[json.RawMessage] {
	d := decoder[json.RawMessage]{value: validJSON, keeps: true, time: time}
	if unchecked {
		d.value = anyLine
	}
	return d
}

func anyLine(line []byte, v *json.RawMessage) error {
	*v = line
	return nil
}

func validJSON(line []byte, v *json.RawMessage) error {
	if json.Valid(line) {
		*v = line
		return nil
	}
	var value any
	if err := json.Unmarshal(line, &value); err != nil {
		return err // it says what is wrong, and where
	}
	return errors.New("not JSON")
}

// record fills in r from a line. A panic of the value's own methods, or of time, is an error of
// this line.
func (d *decoder[T]) record(r *async.Record[T], line []byte) (err error) {
	where := "UnmarshalJSON of the value"
	defer func() {
		if v := recover(); v != nil {
			err = guard.Caught(where, v)
		}
	}()
	r.Time = async.NoTime
	if err = d.value(line, &r.Value); err != nil {
		return fmt.Errorf("the line is not a JSON value of the kind that is wanted: %w", guard.Error(where, err))
	}
	if where = "Time of the source"; d.time != nil {
		if r.Time, err = d.time(r.Value); err != nil {
			return fmt.Errorf("no event time: %w", guard.Error(where, err))
		}
	}
	return nil
}

// TimeField returns a function for SourceConfig.Time of raw records, which are
// objects: the event time is in the named field, as a whole number of
// milliseconds since the Unix epoch or as text in the form of RFC 3339. A record
// without the field, or with null in it, has no event time, and neither has one whose
// time is out of range (async.MinTime to async.MaxTime), which the runtime counts. It
// allocates nothing unless the field is text.
func TimeField(name string) func(json.RawMessage) (async.EventTime, error) {
	return func(record json.RawMessage) (async.EventTime, error) {
		v, err := topField(record, name)
		if err != nil {
			return 0, err
		}
		t, err := eventTime(v)
		if err != nil {
			return 0, fmt.Errorf("field %q: %w", name, err)
		}
		return t, nil
	}
}

func eventTime(v json.RawMessage) (async.EventTime, error) {
	if len(v) == 0 || bytes.Equal(v, []byte("null")) {
		return async.NoTime, nil
	}
	if v[0] == '"' {
		var text string
		if err := json.Unmarshal(v, &text); err != nil {
			return 0, err
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return 0, fmt.Errorf("%q is not a time such as 2026-01-02T15:04:05Z", text)
		}
		return async.At(t), nil
	}
	ms, err := strconv.ParseInt(string(v), 10, 64)
	if errors.Is(err, strconv.ErrRange) || err == nil && !async.EventTime(ms).Valid() {
		return async.BadTime, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%.40s is neither a whole number of milliseconds nor a text", v)
	}
	return async.EventTime(ms), nil
}
