package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/trace"
)

// contextIn returns the trace context in a record's headers, or nil if they have none.
func contextIn(headers []kgo.RecordHeader) *trace.Context {
	var parent, state []byte
	for i := range headers {
		switch h := &headers[i]; h.Key {
		case trace.ParentHeader:
			parent = h.Value
		case trace.StateHeader:
			state = h.Value
		}
	}
	return trace.Parse(parent, state)
}

// withContext adds a context to headers, which may be shared with other records.
func withContext(headers []kgo.RecordHeader, c *trace.Context) []kgo.RecordHeader {
	if slices.ContainsFunc(headers, func(h kgo.RecordHeader) bool { return h.Key == trace.ParentHeader }) {
		return headers
	}
	headers = append(slices.Clip(headers), kgo.RecordHeader{Key: trace.ParentHeader, Value: []byte(c.Parent())})
	if c.State != "" {
		headers = append(headers, kgo.RecordHeader{Key: trace.StateHeader, Value: []byte(c.State)})
	}
	return headers
}
