package async

import (
	"time"

	"github.com/tensorferry/tensorferry/internal/asyncq"
	"github.com/tensorferry/tensorferry/trace"
)

// Values of the attribute tensorferry.outcome of a record's span.
const (
	outcomeCompleted  = "completed"
	outcomeUnfinished = "unfinished"
)

// at returns a time of the queue as a time.Time.
func (o *Operator[IN, OUT]) at(t asyncq.Time) time.Time { return o.base.Add(time.Duration(t)) }

// beginSpan begins the span of a record that was admitted, if the record is sampled. That is
// decided once for each record: it gets a context either way, which further operators find.
func (o *Operator[IN, OUT]) beginSpan(s *slot[IN, OUT], now asyncq.Time) {
	r := &s.rec
	if r.Trace != nil && !r.Trace.Sampled() {
		return
	}
	s.span = o.cfg.Tracer.Start(r.Trace, o.sub.Operator, trace.Internal, o.at(now))
	switch {
	case s.span != nil:
		r.Trace = s.span.Context()
		s.span.Set(trace.Text("tensorferry.job", o.sub.Job), trace.Text("tensorferry.operator", o.sub.Operator),
			trace.Int("tensorferry.subtask", int64(o.sub.Index)), trace.Int("tensorferry.split", int64(r.Split)),
			trace.Int("tensorferry.position", r.Position))
	case r.Trace == nil:
		r.Trace = trace.Unsampled
	}
}

// finish marks a record as answered: it has its results, and waits for its turn from now on.
func (o *Operator[IN, OUT]) finish(id asyncq.ID, now asyncq.Time) {
	if s := &o.slots[id.Slot]; s.span != nil {
		s.span.Event(o.at(now), "answered")
		s.span.Set(trace.Text("tensorferry.outcome", outcomeCompleted), trace.Int("tensorferry.attempts", int64(o.queue.Attempts(id))))
	}
	o.ready(id)
}

// markFailed notes in a record's span why the record failed and what becomes of it.
func (o *Operator[IN, OUT]) markFailed(s trace.Span, f *Failed[IN], err error, action Action) {
	s.Event(f.At, "failed", why(err, f.Class)...)
	outcome := action.String()
	if action == Fail {
		outcome = "failed"
	}
	s.Set(trace.Text("tensorferry.outcome", outcome), trace.Text("tensorferry.class", f.Class.String()), trace.Int("tensorferry.attempts", int64(f.Attempts)))
}

// why returns the attributes of an event that a failure caused. A result that is worth another
// attempt is not a failure, so it has none.
func why(err error, class Class) []trace.Attr {
	if err == nil {
		return nil
	}
	return []trace.Attr{trace.Text("tensorferry.class", class.String()), trace.Text("error.message", err.Error())}
}

// endSpan ends the span of a record that leaves.
func (s *slot[IN, OUT]) endSpan(now time.Time) {
	var err error
	if s.fate != finished {
		err = s.err
	}
	s.span.End(now, err)
	s.span = nil
}

// abandonSpans ends the spans of the records that never left.
func (o *Operator[IN, OUT]) abandonSpans() {
	if o.cfg.Tracer == nil {
		return
	}
	now := time.Now()
	for i := range o.slots {
		if s := o.slots[i].span; s != nil {
			s.Set(trace.Text("tensorferry.outcome", outcomeUnfinished))
			s.End(now, nil)
			o.slots[i].span = nil
		}
	}
}
