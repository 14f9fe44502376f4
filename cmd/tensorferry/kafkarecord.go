package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/tensor"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

// decoderOf makes records of the job of Kafka's. A value that is no JSON object is a record all the same: the operator
// judges it, by the policy for bad records.
func decoderOf(k *job.KafkaSource) kafka.Decode[record] {
	switch {
	case k.Format == job.FormatRaw:
		return rawRecord
	case k.Meta != "":
		return func(r *kafka.Record) (record, error) { return withMeta(r, k.Meta), nil }
	}
	return kafka.Raw[record]
}

// metaSize is about how many bytes appendMeta writes.
func metaSize(r *kafka.Record) int {
	n := 120 + len(r.Topic) + len(r.Key)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 6
	}
	return n
}

// appendMeta writes what Kafka has of a record beside its value, as the fields of an object.
func appendMeta(b []byte, r *kafka.Record) []byte {
	if r.Key != nil {
		b = append(jsoncodec.AppendString(append(b, `"key":`...), r.Key), ',')
	}
	if len(r.Headers) > 0 {
		b = append(b, `"headers":{`...)
		last := lastOf(r.Headers)
		for i, h := range r.Headers {
			if !last(i) {
				continue
			}
			b = append(jsoncodec.AppendString(b, h.Key), ':')
			b = append(jsoncodec.AppendString(b, h.Value), ',')
		}
		b[len(b)-1] = '}'
		b = append(b, ',')
	}
	b = jsoncodec.AppendString(append(b, `"topic":`...), r.Topic)
	b = strconv.AppendInt(append(b, `,"partition":`...), int64(r.Partition), 10)
	b = strconv.AppendInt(append(b, `,"offset":`...), r.Offset, 10)
	b = r.Timestamp.UTC().AppendFormat(append(b, `,"time":"`...), time.RFC3339Nano)
	return append(b, '"')
}

// lastOf says of a header whether none of its name follows. An object has each name once, so the last one counts.
func lastOf(headers []kafka.Header) func(i int) bool {
	if len(headers) <= 16 {
		return func(i int) bool {
			return !slices.ContainsFunc(headers[i+1:], func(h kafka.Header) bool { return h.Key == headers[i].Key })
		}
	}
	last := make(map[string]int, len(headers))
	for i, h := range headers {
		last[h.Key] = i
	}
	return func(i int) bool { return last[headers[i].Key] == i }
}

// withMeta is the value with one more field. What is no object is left as it is.
func withMeta(r *kafka.Record, field string) record {
	b, ok := jsoncodec.AppendField(make([]byte, 0, len(r.Value)+len(field)+metaSize(r)), r.Value, field)
	if !ok {
		return r.Value
	}
	return append(appendMeta(append(b, '{'), r), '}', '}')
}

// withoutMeta is what withMeta was given, if that was no JSON, but for space at its ends.
func withoutMeta(b []byte, field string) []byte {
	// Within a JSON string quotes have a backslash, so the last one that looks like it is it.
	i := bytes.LastIndex(b, append(append([]byte{','}, jsoncodec.AppendString(nil, field)...), ":{"...))
	if i < 0 || !bytes.HasSuffix(b, []byte("}}")) {
		return b
	}
	return append(slices.Clone(b[:i]), '}')
}

// rawRecord is an object with everything that Kafka has of a record.
func rawRecord(r *kafka.Record) (record, error) {
	b := append(make([]byte, 0, len(r.Value)+len(r.Value)/8+metaSize(r)), `{"value":`...)
	switch {
	case r.Value == nil: // a tombstone
		b = append(b, `null`...)
	case utf8.Valid(r.Value):
		b = jsoncodec.AppendString(b, r.Value)
	default:
		b = append(b, `null,"base64":"`...)
		b = append(base64.StdEncoding.AppendEncode(b, r.Value), '"')
	}
	return append(appendMeta(append(b, ','), r), '}'), nil
}

// form makes Kafka records of results.
type form struct {
	topic      string
	key, value []string // paths of fields; nil: the record's key, and all of it
	field      string   // with the value, for messages
	headers    []header
	fixed      int // bytes of the headers' names
	most       int // bytes of a record
}

type header struct {
	name string
	path []string
}

func formOf(k *job.KafkaSink) *form {
	f := &form{topic: k.Topic, most: maxRecord(k)}
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

// maxRecord is how many bytes a record of a sink may have.
func maxRecord(k *job.KafkaSink) int { return cmp.Or(k.MaxRecord, kafka.DefaultMaxRecord) }

func (f *form) make(key string, v record) (*kafka.Record, error) {
	out := &kafka.Record{Value: v}
	if f.value != nil {
		text, ok := jsoncodec.Scalar(v, f.value)
		if !ok {
			return nil, fmt.Errorf("the result has no text, number or truth value in the field %s, which is to be written to the topic %s", f.field, f.topic)
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
func (f *form) check(key string, v record) error {
	// Key, value and headers are texts of the result, so nothing need be made of a small one to know that it fits.
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

// encoderOf makes Kafka records of results. g is nil unless the job is from Kafka to Kafka.
func encoderOf(k *job.KafkaSink, g *kafka.Group) kafka.Encode[record] {
	f := formOf(k)
	return func(r *stream.Record[record]) (*kafka.Record, error) {
		out, err := f.make(r.Key, r.Value)
		if err == nil && k.SamePartition {
			_, id, ok := g.Partition(r.Split)
			if !ok {
				return nil, fmt.Errorf("split %d is no partition", r.Split)
			}
			out.Partition = id
		}
		return out, err
	}
}

// letterEncoderOf is encoderOf for dead letters. A key and headers that leave no room are left out.
func letterEncoderOf(k *job.KafkaSink, g *kafka.Group) kafka.Encode[record] {
	encode := encoderOf(k, g)
	return func(r *stream.Record[record]) (*kafka.Record, error) {
		out, err := encode(r)
		if err == nil && len(out.Key) > maxRecord(k)/4 {
			out.Key = nil
		}
		if err == nil && kafka.Size(out) > maxRecord(k) {
			out.Headers = nil
		}
		return out, err
	}
}

// checked is a codec whose results must suit the sink. One that does not is the failure of its record, which has its policy.
type checked struct {
	tensor.Codec[record, record]
	check func(key string, result record) error
}

// Bind implements tensor.Codec.
func (c checked) Bind(sig tensor.Signature) (tensor.RowCodec[async.Record[record], record], error) {
	rows, err := c.Codec.Bind(sig)
	return checkedRows{rows, c.check}, err
}

type checkedRows struct {
	rows  tensor.RowCodec[record, record]
	check func(key string, result record) error
}

// Encode implements tensor.RowCodec.
func (c checkedRows) Encode(dst *tensor.Batch, in async.Record[record]) error {
	return c.rows.Encode(dst, in.Value)
}

// Decode implements tensor.RowCodec.
func (c checkedRows) Decode(in async.Record[record], src *tensor.Rows, i int) (record, error) {
	out, err := c.rows.Decode(in.Value, src, i)
	if err == nil {
		err = c.check(in.Key, out)
	}
	return out, err
}
