package sidecar

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// settle turns an answer into completions, or handles a failure as A44 says.
func (w *worker[IN, OUT]) settle(r *group[IN], id string, written bool, err error) {
	n := w.batch.Rows()
	var outputs [][]byte
	if w.shares {
		outputs = w.slot.outputs
	}
	ran := err == nil // an answer means that the model has run the rows
	if ran {
		w.c.wire.answered()
		if f := w.c.identify(&w.resp, id); f != nil {
			w.judge(r, f, n)
			w.report()
			w.c.recycle(r)
			return
		}
		if err = oip.FillRowsFrom(w.rows, &w.resp, n, outputs); err == nil {
			w.c.passed(w, r)
			w.at.stage, w.at.row = decoding, 0
			w.decode(r)
			return
		}
		err = oip.Shorten(oip.Error(codes.DataLoss, oip.ReasonBadOutput, err.Error()))
	}
	if w.c.ctx.Err() != nil {
		return // closed: the operator takes no more outcomes
	}
	if p, ok := errors.AsType[*async.PanicError](err); ok { // of a ready connection
		w.failBroken(r, p)
		return
	}
	if w.shares && !ran {
		refused, early := w.unshared(err)
		if refused && (early || !w.c.cfg.NonIdempotent) {
			w.sendPlain(r)
			return
		}
		ran = refused
	}
	f := w.c.name.understand(err, id, &w.marks)
	if f.answered = f.answered || ran; f.answered {
		written = w.c.cfg.NonIdempotent // the rows have run, whatever grpc says
	}
	if f.untouched {
		written = false
	}
	if f.kind == ErrModelNotFound && f.Reason == "" {
		// The model was there at Open. A restarted server takes calls before it has its
		// models, and the probe will tell.
		f.do, f.Error, written = lostRows, f.Error.held(), false
	}
	if f.do == lostRows {
		// The operator is suspended before it gets the calls back, so that it does not make
		// them again at once.
		f.Error = w.c.link.forSilence(f.Error)
		w.c.link.lost(f.Error)
	}
	switch {
	case written && f.answered && f.do == findRow:
		f.once, f.Error = true, f.Error.lostForGood()
	case written && (f.do == lostRows || f.do == holdRows && f.uncertain || f.answered):
		f.do, f.unlikely, f.Error = failRows, false, f.Error.lostForGood()
	}
	w.judge(r, &f, n)
	w.report()
	w.c.recycle(r)
}

// unshared reports whether the server ended a request because of the shared memory, which is then
// no longer used. early reports whether that was before the model could have the rows: the server
// may find out only later that an output does not fit into its place.
func (w *worker[IN, OUT]) unshared(err error) (refused, early bool) {
	d := oip.Parse(err)
	if !w.ended.Load() || !strings.Contains(strings.ToLower(d.Message), "shared memory") {
		return false, false
	}
	w.c.share.refused(w.slot, d.Code == codes.NotFound, d.Message)
	return true, d.Code == codes.NotFound || d.Code == codes.Unimplemented
}

// sendPlain sends a request again, without shared memory.
func (w *worker[IN, OUT]) sendPlain(r *group[IN]) {
	w.c.leave(r, func() {
		r.plain = true
		w.c.gather.again(r, 0, len(r.calls), r.alone)
	})
	w.c.recycle(r)
}

// judge decides what happens to the rows of a request that failed.
func (w *worker[IN, OUT]) judge(r *group[IN], f *failure, rows int) {
	bytes := w.batch.Bytes()
	w.c.leave(r, func() {
		if f.do == findRow || f.do == misfit {
			w.c.reached(w, r)
		}
		switch {
		case f.once:
			w.failAll(r, f)
		case f.unlikely && !w.shares && r.live > 0 && w.tooLarge(r, f, rows):
		case f.do == findRow && f.shared && (rows > 1 || !r.alone):
			w.c.gather.halves(r, true)
		case f.do == findRow && rows > 1:
			if !w.failNamed(r, f) {
				w.c.gather.halves(r, false)
				return
			}
			w.c.gather.again(r, 0, rows, false)
		case f.do == splitRows && rows > 1:
			w.c.sizes.refused(bytes)
			w.c.gather.halves(r, false)
		default:
			w.failAll(r, f)
		}
	})
	if why := w.c.link.down.Load(); why != nil {
		w.c.holdWaiting(why) // the parts, if they came after the link went down
	}
}

// tooLarge handles a request that may have been refused for its size, although the message does not
// say so. If it returns false, the request is held like any other that was refused. Under c.mu.
func (w *worker[IN, OUT]) tooLarge(r *group[IN], f *failure, rows int) bool {
	c, bytes := w.c, w.batch.Bytes()
	switch {
	case r.trial && rows == 1:
		c.sizes.inVain()
		for _, id := range c.gather.giveUp(nil) {
			w.fail(id, f.Error)
		}
		return false
	case rows == 1, !r.trial && !c.sizes.doubt(bytes, len(c.gather.flight) > 1):
		return false
	}
	c.sizes.refused(bytes)
	c.gather.try(r)
	return true
}

// failNamed fails the rows that the server names. It returns false if the server names no row of
// the request.
func (w *worker[IN, OUT]) failNamed(r *group[IN], f *failure) bool {
	named := false
	for _, i := range f.rows {
		if i >= len(r.calls) {
			continue
		}
		named = true
		if r.fates[i] == wanted {
			r.fates[i] = gone
			r.live--
			w.blame(&r.calls[i], f)
		}
	}
	return named
}

// failAll completes every row with the failure. A row whose deadline has passed is left to the
// operator's timer, which reports it better and may have a handler (A21).
func (w *worker[IN, OUT]) failAll(r *group[IN], f *failure) {
	now := time.Now()
	for i := range r.calls {
		c := &r.calls[i]
		if r.fates[i] != wanted || f.Class == async.Timeout && !c.Deadline.IsZero() && !now.Before(c.Deadline) {
			continue
		}
		w.blame(c, f)
	}
}
