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
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

// newLetters makes the sink of the records that failed; nil if the job has none. A folder
// does not go by the job's own name, so that neither sink takes the pending files of the other for
// leftovers of its own, whatever the folders are.
func newLetters(spec *job.Spec, g *kafka.Group, log *slog.Logger) (stream.Sink[record], error) {
	switch l := spec.DeadLetter; {
	case l == nil:
		return nil, nil
	case l.Kafka != nil:
		return newKafkaSink(spec, l.Kafka, "dead_letter.kafka", letterEncoderOf(l.Kafka, g), g, log)
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

// letterMaker writes records that failed as lines of JSON.
type letterMaker struct {
	// where says which partition a split stands for; nil: splits are no partitions.
	where func(split int) (topic string, id int32, ok bool)
	// most bounds a letter, in bytes; 0: nothing does.
	most int
	// meta is the field that the source has added; empty: none.
	meta string
}

func newLetterMaker(spec *job.Spec, p parts) letterMaker {
	var m letterMaker
	if s, ok := p.source.(interface {
		Partition(split int) (topic string, id int32, ok bool)
	}); ok {
		m.where = s.Partition
	}
	if k := spec.DeadLetter.Kafka; k != nil {
		m.most = maxRecord(k) / 4 * 3 // a quarter is the key's
	}
	if k := spec.Source.Kafka; k != nil {
		m.meta = k.Meta
	}
	return m
}

// letter is what a line has beside the record.
type letter struct {
	Size      int    `json:"size,omitempty"` // of a record of which there is only a part
	Class     string `json:"class"`
	Error     string `json:"error"`
	Attempts  int    `json:"attempts"`
	Topic     string `json:"topic,omitempty"`
	Partition *int32 `json:"partition,omitempty"`
	Split     int    `json:"split"`
	Position  int64  `json:"position"`
	At        string `json:"at"`
}

// letterOf writes a record that failed as a line of JSON. The record comes first: byte for byte as
// "record" if it is JSON, else as "text", or as "base64" if it is not even text. Of one that the topic cannot take there is only
// the beginning, as "part".
func (m letterMaker) letterOf(f async.Failed[record]) (record, error) {
	// The place and the class are fields of their own, so of the error only the reason is left.
	reason := f.Err
	if r, ok := errors.AsType[*async.RecordError](reason); ok {
		reason = r.Err
	}
	l := letter{
		Class: f.Class.String(), Error: reason.Error(), Attempts: f.Attempts,
		Split: f.Record.Split, Position: f.Record.Position, At: f.At.UTC().Format(time.RFC3339Nano),
	}
	if m.where != nil {
		if topic, id, ok := m.where(f.Record.Split); ok {
			l.Topic, l.Partition = topic, &id
		}
	}
	name, value := "record", []byte(f.Record.Value)
	var err error
	if !json.Valid(value) {
		// What was no record of JSON is kept all the same, in a form that is.
		if m.meta != "" {
			value = withoutMeta(value, m.meta)
		}
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
	line, err := l.line(name, value)
	if err != nil || m.most == 0 || len(line) <= m.most {
		return line, err
	}
	l.Size = len(f.Record.Value)
	for n := m.most / 2; len(line) > m.most && n > 0 && err == nil; n /= 2 {
		l.Error = part(l.Error, n)
		line, err = l.line("part", jsoncodec.AppendString(nil, part(f.Record.Value, n)))
	}
	return line, err
}

// part is the beginning of a text.
func part[T ~string | ~[]byte](text T, most int) T { return text[:min(len(text), most)] }

// line puts a value in front of the other fields. json.Marshal would write it anew; this keeps its bytes.
func (l *letter) line(name string, value []byte) (record, error) {
	rest, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, len(name)+len(value)+len(rest)+5)
	line = append(line, '{', '"')
	line = append(line, name...)
	line = append(line, '"', ':')
	line = append(line, value...)
	line = append(line, ',')
	return append(line, rest[1:]...), nil
}
