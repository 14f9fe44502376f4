package kafka

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Start says where a partition begins for which neither a checkpoint nor a group has an offset.
type Start struct {
	kind startKind
	at   time.Time
}

type startKind uint8

const (
	earliest startKind = iota
	latest
	timestamp
)

// The starts. The zero value is Earliest.
var (
	Earliest = Start{kind: earliest}
	Latest   = Start{kind: latest}
)

// String names a start as a job file does.
func (s Start) String() string {
	switch s.kind {
	case latest:
		return "latest"
	case timestamp:
		return s.at.Format(time.RFC3339Nano)
	}
	return "earliest"
}

// From starts at the first record whose time is not before t.
func From(t time.Time) Start { return Start{timestamp, t} }

// Topics says which topics are read, and where they begin. Either Names or Pattern must be set.
type Topics struct {
	// Names are the topics.
	Names []string
	// Pattern is a regular expression that matches whole names of topics. It never matches
	// topics whose names begin with two underscores.
	Pattern string
	// Start says where partitions begin for which neither a checkpoint nor the group has an
	// offset. Partitions and topics that appear after the job or the group has begun are read
	// from their first record. Default: Earliest.
	Start Start
	// OnExpired says what happens if the next record to read is gone. Default: FailExpired.
	//
	// It does not matter for a partition that begins at its first record, as long as nothing of
	// it was read. If that record is deleted, the partition begins at its new first record.
	OnExpired OnExpired
	// Traces says that the trace context in each record's headers (W3C, traceparent and
	// tracestate) goes into Record.Trace. Default: these headers are ignored.
	Traces bool
}

func (t Topics) resolve() (match func(topic string) bool, err error) {
	if (len(t.Names) == 0) == (t.Pattern == "") {
		return nil, errors.New("kafka: set either names of topics or a pattern")
	}
	if slices.Contains(t.Names, "") {
		return nil, errors.New("kafka: a topic has no name")
	}
	if t.Pattern == "" {
		return func(topic string) bool { return slices.Contains(t.Names, topic) }, nil
	}
	re, err := regexp.Compile("^(?:" + t.Pattern + ")$")
	if err != nil {
		return nil, fmt.Errorf("kafka: the pattern of topics: %w", err)
	}
	return func(topic string) bool { return !strings.HasPrefix(topic, "__") && re.MatchString(topic) }, nil
}
