package inference

import (
	"encoding/json"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/kafkatopics"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

// Letters says how failed records are written as lines of JSON.
type Letters struct {
	// Where returns the partition that a split stands for. Nil: splits are not partitions.
	Where kafkatopics.Where
	// File returns the file that a split belongs to. Nil: splits do not belong to files.
	File func(split int) (path string, ok bool)
	// Most is the largest size of a letter, in bytes. 0: no bound.
	Most int
	// Meta is the field that the source has added to records. Empty: none.
	Meta string
}

// LettersOf returns how the failed records of a job are written. Where and File are not set.
func LettersOf(spec *job.Spec) (l Letters) {
	if d := spec.DeadLetter; d != nil && d.Kafka != nil {
		l.Most = kafkatopics.MaxRecord(d.Kafka) / 4 * 3 // the last quarter is for the key
	}
	if k := spec.Source.Kafka; k != nil {
		l.Meta = k.Meta
	}
	return l
}

// letter has the fields of a line besides the record.
type letter struct {
	Size      int    `json:"size,omitempty"` // the record's, if the line has only a part
	Class     string `json:"class"`
	Error     string `json:"error"`
	Attempts  int    `json:"attempts"`
	Topic     string `json:"topic,omitempty"`
	Partition *int32 `json:"partition,omitempty"`
	File      string `json:"file,omitempty"`
	Split     int    `json:"split"`
	Position  int64  `json:"position"`
	At        string `json:"at"`
}

// Line writes a failed record as a line of JSON. The record comes first: byte for byte as "record"
// if it is valid JSON, and otherwise as "text", or as "base64" if it is not valid UTF-8. If the
// line would exceed Most, only the beginning of the record is written, as "part".
func (m Letters) Line(f async.Failed[Record]) (Record, error) {
	// The line has fields for the place and the class, so the error is only the reason.
	reason := f.Err
	if r, ok := errors.AsType[*async.RecordError](reason); ok {
		reason = r.Err
	}
	l := letter{
		Class: f.Class.String(), Error: reason.Error(), Attempts: f.Attempts,
		Split: f.Record.Split, Position: f.Record.Position, At: f.At.UTC().Format(time.RFC3339Nano),
	}
	if m.Where != nil {
		if topic, id, ok := m.Where(f.Record.Split); ok {
			l.Topic, l.Partition = topic, &id
		}
	}
	if m.File != nil {
		l.File, _ = m.File(f.Record.Split)
	}
	name, value := "record", []byte(f.Record.Value)
	var err error
	if !json.Valid(value) {
		// A record that is not JSON is kept too, in a form that is JSON.
		if m.Meta != "" {
			value = kafkatopics.WithoutMeta(value, m.Meta)
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
	if err != nil || m.Most == 0 || len(line) <= m.Most {
		return line, err
	}
	l.Size = len(f.Record.Value)
	for n := m.Most / 2; len(line) > m.Most && n > 0 && err == nil; n /= 2 {
		l.Error = part(l.Error, n)
		line, err = l.line("part", jsoncodec.AppendString(nil, part(f.Record.Value, n)))
	}
	return line, err
}

// part is the beginning of a text.
func part[T ~string | ~[]byte](text T, most int) T { return text[:min(len(text), most)] }

// line puts a value in front of the other fields. It keeps the value's bytes, which json.Marshal
// would reformat.
func (l *letter) line(name string, value []byte) (Record, error) {
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
