package trace

import (
	"time"

	"github.com/tensorferry/tensorferry/internal/enum"
)

// Tracer records spans. Its methods are called from any goroutine. They must not block, since
// records wait meanwhile.
type Tracer interface {
	// Start begins a span at the time at. The span belongs to the trace of parent, or to a new
	// trace if parent is nil. links are further contexts that caused it. Start returns nil if the
	// span is not recorded, because parent is not sampled or because no new trace is to begin; it
	// should not allocate memory then.
	//
	// It is called once for each record without a context. It is never called with a parent or
	// links that are not sampled. The Tracer must not keep the slice links.
	Start(parent *Context, name string, kind Kind, at time.Time, links ...*Context) Span
}

// Span is a span that is recorded. Its methods are called from one goroutine at a time, and not
// after End. The times passed to them are when the events happened, which may be a little in the
// past.
type Span interface {
	// Context returns the span's own context, for what the span causes. It is sampled, never nil,
	// and always the same.
	Context() *Context
	// Set adds attributes, and replaces those that have the same key.
	Set(attrs ...Attr)
	// Event records that something happened at the time at.
	Event(at time.Time, name string, attrs ...Attr)
	// End ends the span. err says why the operation of the span failed; it is nil if the operation
	// did not fail.
	End(at time.Time, err error)
}

// Kind says what a span stands for.
type Kind uint8

const (
	// Internal is work inside the process.
	Internal Kind = iota
	// Client is a request to another process, until its answer.
	Client
	// Server is a request from another process.
	Server
)

var kinds = []string{"internal", "client", "server"}

func (k Kind) String() string { return enum.Name("kind", k, kinds) }

// Attr is an attribute of a span or an event. Its value is a text or a whole number.
type Attr struct {
	Key    string
	text   string
	number int64
	isText bool
}

// Text makes an attribute whose value is a text. The text may hold any bytes.
func Text(key, value string) Attr { return Attr{Key: key, text: value, isText: true} }

// Int makes an attribute whose value is a whole number.
func Int(key string, value int64) Attr { return Attr{Key: key, number: value} }

// Text returns the value and true if the value is a text, and otherwise "" and false.
func (a Attr) Text() (value string, ok bool) { return a.text, a.isText }

// Int returns the value if it is a number, and otherwise 0.
func (a Attr) Int() int64 { return a.number }
