package guard

import (
	"time"

	"github.com/tensorferry/tensorferry/trace"
)

// Tracer returns t with guarded methods and spans. Their panics go to broke, which may be called
// from any goroutine. A span whose Start panics is not recorded.
func Tracer(t trace.Tracer, broke func(error)) trace.Tracer {
	if t == nil {
		return nil
	}
	return &tracer{t, broke}
}

type tracer struct {
	to    trace.Tracer
	broke func(error)
}

func (t *tracer) Start(parent *trace.Context, name string, kind trace.Kind, at time.Time, links ...*trace.Context) trace.Span {
	returned := false
	defer t.rescue("Start of the tracer", &returned)
	to := t.to.Start(parent, name, kind, at, links...)
	if to == nil {
		returned = true
		return nil
	}
	// Context always returns the same value. A span without a context cannot be used.
	own := to.Context()
	if own == nil {
		panic("Context of a span returned nil")
	}
	returned = true
	return &span{t: t, to: to, own: own}
}

func (t *tracer) rescue(where string, returned *bool) {
	v := recover()
	switch {
	case *returned:
	case v != nil:
		t.broke(Caught(where, v))
	default:
		t.broke(Exited(where))
	}
}

type span struct {
	t   *tracer
	to  trace.Span
	own *trace.Context
}

func (s *span) Context() *trace.Context { return s.own }

func (s *span) Set(attrs ...trace.Attr) {
	returned := false
	defer s.t.rescue("Set of a span", &returned)
	s.to.Set(attrs...)
	returned = true
}

func (s *span) Event(at time.Time, name string, attrs ...trace.Attr) {
	returned := false
	defer s.t.rescue("Event of a span", &returned)
	s.to.Event(at, name, attrs...)
	returned = true
}

func (s *span) End(at time.Time, err error) {
	returned := false
	defer s.t.rescue("End of a span", &returned)
	s.to.End(at, err)
	returned = true
}
