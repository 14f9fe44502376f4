// Package eventtime takes event times from Beam's form to the operator's and back. Both count milliseconds since the Unix epoch; they differ in
// what stands for no time at all.
package eventtime

import (
	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"

	"github.com/tensorferry/tensorferry/async"
)

// FromBeam returns the operator's form. Beam gives elements that have no time its smallest one.
func FromBeam(t beam.EventTime) async.EventTime {
	if t <= mtime.MinTimestamp {
		return async.NoTime
	}
	return async.EventTime(t)
}

// ToBeam returns Beam's form. Times that it cannot count become the nearest that it can, so none is its smallest.
func ToBeam(t async.EventTime) beam.EventTime {
	return mtime.FromMilliseconds(int64(t))
}
