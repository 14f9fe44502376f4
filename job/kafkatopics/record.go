package kafkatopics

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

// Decoder returns a function that makes the job's records of Kafka's. A value that is not a JSON
// object becomes a record too: the operator applies the policy for bad records to it.
func Decoder(k *job.KafkaSource) kafka.Decode[Record] {
	switch {
	case k.Format == job.FormatRaw:
		return rawRecord
	case k.Meta != "":
		return func(r *kafka.Record) (Record, error) { return withMeta(r, k.Meta), nil }
	}
	return kafka.Raw[Record]
}

// metaSize is about how many bytes appendMeta writes.
func metaSize(r *kafka.Record) int {
	n := 120 + len(r.Topic) + len(r.Key)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 6
	}
	return n
}

// appendMeta writes everything that Kafka has of a record besides its value, as the fields of an
// object. An invalid time is left out.
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
	if kafka.EventTime(r).Valid() {
		b = r.Timestamp.UTC().AppendFormat(append(b, `,"time":"`...), time.RFC3339Nano)
		b = append(b, '"')
	}
	return b
}

// lastOf returns a function that reports whether header i is the last of its name. A JSON object
// has each name once, so only the last header counts.
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

// withMeta returns the value with one more field, or the value itself if it is not an object.
func withMeta(r *kafka.Record, field string) Record {
	b, ok := jsoncodec.AppendField(make([]byte, 0, len(r.Value)+len(field)+metaSize(r)), r.Value, field)
	if !ok {
		return r.Value
	}
	return append(appendMeta(append(b, '{'), r), '}', '}')
}

// WithoutMeta removes the field that Decoder added to a value that is not JSON, and so returns the
// value itself, except for space at its ends. A value without such a field is returned as it is.
func WithoutMeta(b []byte, field string) []byte {
	// Quotes within a JSON string have a backslash, so the last match is the field.
	i := bytes.LastIndex(b, append(append([]byte{','}, jsoncodec.AppendString(nil, field)...), ":{"...))
	if i < 0 || !bytes.HasSuffix(b, []byte("}}")) {
		return b
	}
	return append(slices.Clone(b[:i]), '}')
}

// rawRecord returns an object with everything that Kafka has of a record.
func rawRecord(r *kafka.Record) (Record, error) {
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
