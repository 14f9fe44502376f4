package stream

import (
	"github.com/tensorferry/tensorferry/async"
)

// Record is one element of a stream: a value with its event time, its key, and the split and
// position of the source record from which it comes.
type Record[T any] = async.Record[T]

// EventTime is a record's own time in milliseconds since the Unix epoch.
type EventTime = async.EventTime
