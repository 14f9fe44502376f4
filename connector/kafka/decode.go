package kafka

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// Decode makes a value of a record. The value may keep the memory of r.Key, r.Value and r.Headers:
// nothing writes to it again. An r.Value of nil is a tombstone. An error fails the job at that
// record. Decode is called from several goroutines. JSON and Raw are ready-made.
type Decode[T any] func(r *Record) (T, error)

// JSON is a Decode that makes a value of a record's JSON, by the rules of encoding/json. It refuses
// a tombstone.
func JSON[T any](r *Record) (v T, err error) {
	if r.Value == nil {
		return v, errors.New("it is a tombstone, which has no value")
	}
	if err := json.Unmarshal(r.Value, &v); err != nil {
		return v, fmt.Errorf("it is not JSON of the wanted type: %w", err)
	}
	return v, nil
}

// Raw is a Decode that keeps a record's value as it is, byte for byte. It copies nothing and checks
// nothing. The value of a tombstone is empty.
func Raw[T ~[]byte](r *Record) (T, error) { return T(r.Value), nil }

// convert makes the records of a job from those of a partition.
func convert[T any](decode Decode[T], traces bool, from []*Record, dst []async.Record[T]) (_ []async.Record[T], err error) {
	i := 0
	defer func() {
		if v := recover(); v != nil {
			err = guard.Caught("Decode of the source", v)
		}
		if err != nil {
			r := from[i]
			err = fmt.Errorf("kafka: the record of %s, partition %d, offset %d cannot be decoded: %w", r.Topic, r.Partition, r.Offset, err)
		}
	}()
	var r *Record
	for i, r = range from {
		v, err := decode(r)
		if err != nil {
			return dst, guard.Error("Decode of the source", err)
		}
		dst = append(dst, async.Record[T]{
			Value: v, Position: r.Offset, Key: string(r.Key), Time: EventTime(r),
		})
		if traces {
			dst[len(dst)-1].Trace = contextIn(r.Headers)
		}
	}
	return dst, nil
}
