package trace

import (
	"time"

	"github.com/tensorferry/tensorferry/internal/enum"
)

// Tracer records spans. Its methods are called from any goroutine and must not block: records wait
// meanwhile.
type Tracer interface {
	// Start begins a span at a time, as part of the trace of parent and caused also by links, or,
	// if parent is nil, of a new trace. It returns nil, and should allocate nothing, if the span is
	// not recorded: because parent is not sampled, or because a new trace is not to be. It is
	// called once for each record without a context, and never with a parent or links that are not
	// sampled. The Tracer must not keep links.
	Start(parent *Context, name string, kind Kind, at time.Time, links ...*Context) Span
}

// Span is one that is recorded. Its methods are called from one goroutine at a time, and not after
// End. Times are those of what is told, which may lie a little in the past.
type Span interface {
	// Context is the span's own, for what it causes. It is sampled, never nil, and always the same.
	Context() *Context
	// Set adds attributes, or replaces those of the same key.
	Set(attrs ...Attr)
	// Event notes that something happened.
	Event(at time.Time, name string, attrs ...Attr)
	// End ends the span; err is why what it stands for failed, nil if it did not.
	End(at time.Time, err error)
}

// Kind is what a span stands for.
type Kind uint8

const (
	// Internal: work inside the process.
	Internal Kind = iota
	// Client: a request to another process, until its answer.
	Client
	// Server: a request of another process.
	Server
)

var kinds = []string{"internal", "client", "server"}

func (k Kind) String() string { return enum.Name("kind", k, kinds) }

// Attr is an attribute of a span or an event: a text or a whole number.
type Attr struct {
	Key    string
	text   string
	number int64
	isText bool
}

// Text is an attribute whose value is a text, of any bytes.
func Text(key, value string) Attr { return Attr{Key: key, text: value, isText: true} }

// Int is an attribute whose value is a number.
func Int(key string, value int64) Attr { return Attr{Key: key, number: value} }

// Text returns the value if it is a text.
func (a Attr) Text() (value string, ok bool) { return a.text, a.isText }

// Int returns the value if it is a number, else 0.
func (a Attr) Int() int64 { return a.number }
