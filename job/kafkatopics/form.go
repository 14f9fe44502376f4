package kafkatopics

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

// Where returns the partition that a split stands for. ok is false if the split is not a partition.
type Where func(split int) (topic string, id int32, ok bool)

// form turns results into Kafka records.
type form struct {
	topic      string
	key, value []string // paths of fields; nil: the record's key, and all of it
	field      string   // the name of the value's field, for messages
	headers    []header
	fixed      int // bytes of the headers' names
	most       int // bytes of a record
}

type header struct {
	name string
	path []string
}

// Checker returns a function whose error says that the sink cannot write a result, and why.
func Checker(k *job.KafkaSink) func(key string, result Record) error { return formOf(k).check }

func formOf(k *job.KafkaSink) *form {
	f := &form{topic: k.Topic, most: MaxRecord(k)}
	if k.Key.Field != "" {
		f.key = strings.Split(k.Key.Field, ".")
	}
	if k.Format == job.FormatRaw {
		f.field, f.value = k.Value.Field, strings.Split(k.Value.Field, ".")
	}
	for _, h := range k.Headers {
		f.headers = append(f.headers, header{h.Name, strings.Split(h.Field.Field, ".")})
		f.fixed += kafka.Size(&kafka.Record{Headers: []kafka.Header{{Key: h.Name}}})
	}
	return f
}

// MaxRecord returns the largest size of a sink's record, in bytes, with its key and headers.
func MaxRecord(k *job.KafkaSink) int { return cmp.Or(k.MaxRecord, kafka.DefaultMaxRecord) }

func (f *form) make(key string, v Record) (*kafka.Record, error) {
	out := &kafka.Record{Value: v}
	if f.value != nil {
		text, ok := jsoncodec.Scalar(v, f.value)
		if !ok {
			return nil, fmt.Errorf("the result has no text, number or truth value in the field %s, whose value goes to the topic %s", f.field, f.topic)
		}
		out.Value = []byte(text)
	}
	switch {
	case f.key != nil:
		if text, ok := jsoncodec.Scalar(v, f.key); ok {
			out.Key = []byte(text)
		}
	case key != "":
		out.Key = []byte(key)
	}
	for _, h := range f.headers {
		if text, ok := jsoncodec.Scalar(v, h.path); ok {
			out.Headers = append(out.Headers, kafka.Header{Key: h.name, Value: []byte(text)})
		}
	}
	return out, nil
}

// check returns an error if a result cannot be written.
func (f *form) check(key string, v Record) error {
	// Key, value and headers are texts of the result, and none is longer than the result. So a
	// small result is known to fit without making its record.
	if f.value == nil && len(key)+(2+len(f.headers))*len(v)+f.fixed <= f.most {
		return nil
	}
	k, err := f.make(key, v)
	if err != nil {
		return err
	}
	if n := kafka.Size(k); n > f.most {
		return fmt.Errorf("the result has %d bytes, with its key and headers; a record of the topic %s may have %d (max_record)", n, f.topic, f.most)
	}
	return nil
}

// Encoder returns a function that makes Kafka records of results. It calls where for results that
// keep the partition of their record. where may be nil if the sink has no such results.
func Encoder(k *job.KafkaSink, where Where) kafka.Encode[Record] {
	f := formOf(k)
	return func(r *async.Record[Record]) (*kafka.Record, error) {
		out, err := f.make(r.Key, r.Value)
		if err == nil && k.SamePartition {
			_, id, ok := where(r.Split)
			if !ok {
				return nil, fmt.Errorf("split %d is not a partition", r.Split)
			}
			out.Partition = id
		}
		return out, err
	}
}

// LetterEncoder is Encoder for dead letters. It drops a key of more than a quarter of the largest
// record, and headers that do not fit.
func LetterEncoder(k *job.KafkaSink, where Where) kafka.Encode[Record] {
	encode := Encoder(k, where)
	return func(r *async.Record[Record]) (*kafka.Record, error) {
		out, err := encode(r)
		if err == nil && len(out.Key) > MaxRecord(k)/4 {
			out.Key = nil
		}
		if err == nil && kafka.Size(out) > MaxRecord(k) {
			out.Headers = nil
		}
		return out, err
	}
}
