package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"time"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/stream"
)

// newLetters makes the sink of the records that failed; nil if the job has none. A folder
// does not go by the job's own name, so that neither sink takes the pending files of the other for
// leftovers of its own, whatever the folders are.
func newLetters(spec *job.Spec, g *kafka.Group, log *slog.Logger) (stream.Sink[record], error) {
	switch l := spec.DeadLetter; {
	case l == nil:
		return nil, nil
	case l.Kafka != nil:
		return newKafkaSink(spec, l.Kafka, "dead_letter.kafka", g, log)
	default:
		return file.NewRawSink(file.SinkConfig{Dir: l.File.Path, Job: spec.Name + "/" + lettersName}), nil
	}
}

// lettersPlace names where the records go that failed.
func lettersPlace(spec *job.Spec) string {
	if k := spec.DeadLetter.Kafka; k != nil {
		return "the topic " + k.Topic
	}
	return spec.DeadLetter.File.Path
}

// checkLetters says whether the folder for the records that failed is the sink's by another name.
func checkLetters(spec *job.Spec) error {
	if spec.DeadLetter == nil || spec.DeadLetter.File == nil || spec.Sink.File == nil {
		return nil
	}
	a, errA := os.Stat(spec.DeadLetter.File.Path)
	b, errB := os.Stat(spec.Sink.File.Path)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return spec.Fault("dead_letter.file.path", "want another folder than the sink's, %s, which this one is a link to", spec.Sink.File.Path)
	}
	return nil
}

// letterOf writes a record that failed as a line of JSON. The record comes first: byte for byte as
// "record" if it is JSON, else as "text", or as "base64" if it is not even text.
func letterOf(f async.Failed[record]) (record, error) {
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
