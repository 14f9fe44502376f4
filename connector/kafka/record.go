package kafka

import (
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/async"
)

// Record is a record of Kafka. It has a topic, a partition, an offset, a key, a value, headers and
// a time.
type Record = kgo.Record

// Header is a header of a Record.
type Header = kgo.RecordHeader

// Size returns how many bytes of a topic's largest record size a record takes at most, before
// compression. It counts the key, the value and the headers.
func Size(r *Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 10 // 10 for the two lengths
	}
	return n
}

// EventTime returns the time of a record. It returns async.NoTime for a record that has none, and
// async.BadTime for a time that is out of range. Out of range is a time before 1970, such as -1,
// and a time after 2262, such as one in microseconds, which the client cannot represent.
func EventTime(r *Record) async.EventTime {
	if r.Timestamp.IsZero() {
		return async.NoTime
	}
	// The client counts nanoseconds in 64 bits, which a time after 2262 overflows. Kafka's times
	// are whole milliseconds. A time that has overflowed is not.
	if r.Timestamp.Nanosecond()%1e6 != 0 || r.Timestamp.UnixMilli() < 0 {
		return async.BadTime
	}
	return async.At(r.Timestamp)
}
