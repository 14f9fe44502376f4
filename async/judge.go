package async

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/tensorferry/tensorferry/internal/asyncq"
	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/trace"
)

var errClosed = errors.New("async: the operator is closed")

// takeReports handles the mail, each report at its own time. Timers that are due before a report
// fire before it. Timers that are due at the same moment fire after it (A15).
func (o *Operator[IN, OUT]) takeReports() {
	o.spare = o.inbox.take(o.spare)
	completions := o.spare.completions
	for i := range o.spare.reports {
		r := &o.spare.reports[i]
		at := o.clock(r.at)
		o.queue.Tick(at - 1)
		o.settle()
		switch r.kind {
		case completed:
			for k := range completions[:r.n] {
				o.vet(&completions[k])
				o.judge(at, &completions[k])
			}
			completions = completions[r.n:]
		case suspended:
			if o.suspended = guard.Error("the function", r.why); r.why == nil {
				o.suspended = errors.New("calls are suspended")
			}
			o.heldFor = o.suspended
			o.queue.Suspend(at)
		case resumed:
			o.suspended = nil
			o.queue.Resume(at)
		case broken:
			o.fail(guard.Error("the function", r.why))
		}
		o.settle()
		if o.failed != nil {
			return
		}
	}
}

// vet replaces an error whose own methods panic by one that can be used. Many records may share an
// error, so the newest one that passed is remembered.
func (o *Operator[IN, OUT]) vet(c *Completion[OUT]) {
	if c.Err == nil || reflect.TypeOf(c.Err).Kind() == reflect.Pointer && c.Err == o.vetted {
		return
	}
	c.Err = guard.Error("the function", c.Err)
	o.vetted = c.Err
}

// judge decides what one completion means (A44). The queue knows whether it is late and whether
// there may be another attempt. The verdict says whether another attempt is worth it.
func (o *Operator[IN, OUT]) judge(now asyncq.Time, c *Completion[OUT]) {
	id := queueID(c.ID)
	if o.failed != nil || !o.queue.Awaits(id, c.ID.Attempt) {
		return // the outcome does not count, so the function is not asked about it (A11)
	}
	outcome, after := asyncq.Final, asyncq.Time(0)
	var v Verdict
	if c.Err != nil {
		outcome, v = asyncq.Fault, VerdictOf(c.Err)
	}
	switch {
	case v.Unmade:
		outcome = asyncq.Unmade
	case v.Hold:
		outcome, after = asyncq.Unavailable, asyncq.Time(v.RetryAfter)
		if v.Class == Overload {
			outcome = asyncq.Overloaded
		}
	case v.Class == BadRecord || v.Class == Permanent:
	case o.worthRetrying(c, v):
		outcome = asyncq.Transient
	}
	if o.failed != nil {
		return
	}
	verdict := o.queue.Complete(now, id, c.ID.Attempt, outcome, after)
	s := &o.slots[id.Slot]
	if outcome != asyncq.Unmade { // an unmade call does not show how long calls take
		o.called.add(time.Duration(now - s.since))
		s.err = c.Err
	}
	switch verdict {
	case asyncq.Waiting:
		if outcome == asyncq.Unmade {
			break
		}
		o.queue.GiveBack(id, asyncq.Time(v.Lost))
		name := "held"
		if outcome == asyncq.Transient {
			name = "retrying"
		} else {
			o.heldFor = c.Err
		}
		if s.span != nil {
			s.span.Event(o.at(now), name, why(c.Err, v.Class)...)
		}
	case asyncq.Decide, asyncq.Expired:
		switch {
		case c.Err == nil:
			s.outs = c.Outputs
			o.finish(id, now)
		case verdict == asyncq.Expired || v.Class == Timeout:
			o.timeout(id, c.ID.Attempt, now)
		default:
			o.failRecord(id, c.Err)
		}
	case asyncq.HeldOut:
		o.holdOver(id)
	}
}

// worthRetrying decides whether an outcome is worth another attempt. The function's own predicate
// decides, if it has one; otherwise the failure's own verdict does.
func (o *Operator[IN, OUT]) worthRetrying(c *Completion[OUT], v Verdict) bool {
	switch {
	case o.predicate == nil:
		return c.Err != nil && v.Retry
	case c.Err == nil:
		defer o.failOnPanic("RetryResult")
		return o.predicate.RetryResult(c.Outputs)
	default:
		defer o.failOnPanic("RetryError")
		return o.predicate.RetryError(c.Err)
	}
}

// settle carries out what the queue asks for, except emission. Timeouts and ended holds are decided
// at once. Calls and cancellations are gathered in slices, which makeCalls and makeCancels pass to
// the caller. Calls that began at the moment at which the operator failed are counted and cancelled
// too.
func (o *Operator[IN, OUT]) settle() {
	for i := 0; i < len(o.queue.Effects); i++ {
		switch e := o.queue.Effects[i]; e.Kind {
		case asyncq.Call:
			s := &o.slots[e.ID.Slot]
			s.since = o.queue.Now()
			c := Call[IN]{ID: callID(e.ID, e.Attempt), Record: s.rec}
			if s.span != nil {
				s.span.Event(time.Now(), "called", trace.Int("tensorferry.call", int64(e.Attempt)))
			}
			if o.cfg.Timeout > 0 {
				c.Deadline = o.base.Add(time.Duration(e.Deadline))
			}
			o.calls = append(o.calls, c)
		case asyncq.Cancel:
			o.cancel(e.ID, e.Attempt, o.queue.Now())
		case asyncq.Timeout:
			o.timeout(e.ID, e.Attempt, e.Deadline)
		case asyncq.HoldOver:
			o.holdOver(e.ID)
		}
	}
	o.queue.Effects = o.queue.Effects[:0]
}

// cancel ends a call without an outcome.
func (o *Operator[IN, OUT]) cancel(id asyncq.ID, attempt uint32, now asyncq.Time) {
	o.called.add(time.Duration(now - o.slots[id.Slot].since))
	o.cancels = append(o.cancels, callID(id, attempt))
}

// timeout decides a record that is out of time (A21, A22), by the operator's clock or by the other
// side's.
func (o *Operator[IN, OUT]) timeout(id asyncq.ID, attempt uint32, deadline asyncq.Time) {
	o.stats.Timeouts++
	if o.failed != nil {
		return
	}
	s := &o.slots[id.Slot]
	if o.onTimeout == nil {
		err := fmt.Errorf("%w (%v)", ErrTimeout, o.cfg.Timeout)
		switch {
		case s.err != nil && VerdictOf(s.err).Class == Timeout:
			err = s.err // the other side reported it, perhaps before the operator's own timeout
		case s.err != nil:
			err = fmt.Errorf("%w; the last attempt: %w", err, s.err)
		}
		o.failRecord(id, timeoutError{err})
		return
	}
	var outs Outputs[OUT]
	var err error
	call := Call[IN]{ID: callID(id, attempt), Record: s.rec, Deadline: o.base.Add(time.Duration(deadline))}
	func() {
		defer recovered("OnTimeout of "+o.sub.Operator, &err)
		outs, err = o.onTimeout.OnTimeout(call)
	}()
	if err == nil && !outs.IsSet() {
		err = ErrHandlerSilent
	}
	if err != nil {
		o.failRecord(id, timeoutError{err})
		return
	}
	s.outs = outs
	o.finish(id, deadline)
}

// holdOver decides a record that was held for as long as Config.Hold allows (A40, A41).
func (o *Operator[IN, OUT]) holdOver(id asyncq.ID) {
	if o.failed != nil {
		return
	}
	// A suspension is newer than the record's own last failure. A record that was never called has
	// no failure of its own.
	why, class := o.suspended, Transport
	if why == nil {
		why = o.slots[id.Slot].err
	}
	if why == nil {
		why = o.heldFor
	}
	if why == nil {
		why = errors.New("no call could be made")
	} else if v := VerdictOf(why); v.Hold {
		class = v.Class
	}
	o.failRecord(id, holdError{class, fmt.Errorf("%w (%v): %w", ErrHold, o.cfg.Hold, why)})
}

// failRecord ends a record for which there is no further attempt. The action of its class decides
// what becomes of it and of the operator. That is final (A42).
func (o *Operator[IN, OUT]) failRecord(id asyncq.ID, err error) {
	s := &o.slots[id.Slot]
	f := Failed[IN]{Record: s.rec, Class: VerdictOf(err).Class, Attempts: o.queue.Attempts(id), At: time.Now()}
	f.Err = &RecordError{
		Operator: o.sub.Operator, Subtask: o.sub.Index, Split: s.rec.Split, Position: s.rec.Position,
		Attempts: f.Attempts, Starved: o.queue.Starved(id), Class: f.Class, Err: err,
	}
	action := o.cfg.OnError.For(f.Class)
	if s.span != nil {
		s.err = f.Err // the last attempt's error is not needed any more
		o.markFailed(s.span, &f, err, action)
	}
	switch action {
	case Drop:
		s.fate = dropped
	case DeadLetter:
		s.fate, s.failure = lettered, &f
	case Fallback:
		outs, err := o.makeFallback(f)
		if err != nil {
			o.fail(fmt.Errorf("%w; the fallback: %w", f.Err, err))
			return
		}
		o.stats.Fallbacks++
		s.outs = outs
	default:
		if s.span != nil {
			s.fate = failed
			s.endSpan(f.At)
		}
		o.fail(f.Err)
		return
	}
	o.ready(id)
}

// ready marks a record as done. From now on it waits for its turn to leave.
func (o *Operator[IN, OUT]) ready(id asyncq.ID) {
	s := &o.slots[id.Slot]
	s.since = o.queue.Now()
	s.bytes = s.outs.bytes(o.outBytes)
	o.resultBytes += s.bytes
	o.queue.Finish(id, s.bytes)
}

func (o *Operator[IN, OUT]) makeFallback(f Failed[IN]) (outs Outputs[OUT], err error) {
	defer recovered("Fallback of "+o.sub.Operator, &err)
	outs, err = o.fallback.Fallback(f)
	if err == nil && !outs.IsSet() {
		err = errors.New("it returned neither outputs nor an error; return One, Many, None or an error")
	}
	return outs, err
}

// timeoutError and holdError give the operator's own failures their class. The errors that they
// wrap may have another class.
type timeoutError struct{ error }

func (e timeoutError) Unwrap() error        { return e.error }
func (e timeoutError) Is(target error) bool { return target == ErrTimeout }
func (e timeoutError) Verdict() Verdict     { return Verdict{Class: Timeout} }

type holdError struct {
	class Class
	error
}

func (e holdError) Unwrap() error    { return e.error }
func (e holdError) Verdict() Verdict { return Verdict{Class: e.class} }
