package inference

import (
	"encoding/json"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/async"
)

// Letter writes a record that failed as a line of JSON. The record comes first: byte for byte as
// "record" if it is JSON, else as "text", or as "base64" if it is not even text.
func Letter(f async.Failed[Record]) (Record, error) {
	// The place and the class are fields of their own, so of the error only the reason is left.
	reason := f.Err
	if r, ok := errors.AsType[*async.RecordError](reason); ok {
		reason = r.Err
	}
	rest, err := json.Marshal(struct {
		Class    string `json:"class"`
		Error    string `json:"error"`
		Attempts int    `json:"attempts"`
		Split    int    `json:"split"`
		Position int64  `json:"position"`
		At       string `json:"at"`
	}{f.Class.String(), reason.Error(), f.Attempts, f.Record.Split, f.Record.Position, f.At.UTC().Format(time.RFC3339Nano)})
	if err != nil {
		return nil, err
	}
	name, value := "record", []byte(f.Record.Value)
	if !json.Valid(value) {
		// What was no record of JSON is kept all the same, in a form that is.
		if name = "text"; utf8.Valid(value) {
			value, err = json.Marshal(string(value))
		} else {
			name = "base64"
			value, err = json.Marshal(value)
		}
		if err != nil {
			return nil, err
		}
	}
	// json.Marshal would write the record anew. This keeps its bytes.
	line := make([]byte, 0, len(name)+len(value)+len(rest)+5)
	line = append(line, '{', '"')
	line = append(line, name...)
	line = append(line, '"', ':')
	line = append(line, value...)
	line = append(line, ',')
	return append(line, rest[1:]...), nil
}
