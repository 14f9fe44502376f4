package stream

import (
	"github.com/tensorferry/tensorferry/async"
)

// Record is one element of a stream: a value, its event time, and the split and
// position of the source record that it comes from.
type Record[T any] = async.Record[T]

// EventTime is a record's own time in milliseconds since the Unix epoch.
type EventTime = async.EventTime
