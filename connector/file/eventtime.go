package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// TimeField returns a function for SourceConfig.Time of raw records that are objects. The function
// takes the event time from the named field, which is a whole number of milliseconds since the Unix
// epoch or a text in the form of RFC 3339. A record without the field, or with null in it, has no
// event time. A time out of range (async.MinTime to async.MaxTime) counts as none, and the runtime
// counts such records. The function allocates nothing unless the field is a text.
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
