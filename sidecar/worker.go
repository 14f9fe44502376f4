package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
	"github.com/tensorferry/tensorferry/trace"
)

// raggedTries bounds how many rows of another shape are set aside one after the other, in the hope
// that later rows fit. So a request never costs many times its own encoding.
const raggedTries = 16

// worker is one place in a channel's window. It carries one request at a time from records to
// completions. Its buffers live as long as it does.
type worker[IN, OUT any] struct {
	c     *channel[IN, OUT]
	batch *tensor.Batch
	rows  *tensor.Rows
	req   *oip.Request
	resp  oip.ModelInferResponse
	fates []fate
	out   []async.Completion[OUT]
	// rows that the server has blamed, before it is known whether the model has changed
	doubt []accusedRow[OUT]

	slot   *slot         // what the batch is encoded into; nil: none
	own    *tensor.Batch // for requests without a slot
	placed *tensor.Batch // for requests with a slot
	shares bool          // the request sends the places of tensors in shared memory
	// set when the server has ended the request. Each request in shared memory has its own,
	// since a trailer may come late.
	ended *ended
	group *group[IN] // of a request in shared memory, until it is over; under c.mu

	options []grpc.CallOption // of each request; they fill marks and to
	marks   marks             // headers and trailers of the answer
	to      peer.Peer         // the peer, once the call is on a connection

	traced []*trace.Context // of the sampled rows

	at progress[IN] // of the request, for takeOver
}

func newWorker[IN, OUT any](c *channel[IN, OUT]) *worker[IN, OUT] {
	w := &worker[IN, OUT]{
		c: c, own: tensor.NewBatch(&c.sig), rows: tensor.NewRows(&c.sig), req: oip.NewRequest(&c.sig),
	}
	w.batch = w.own
	w.options = []grpc.CallOption{grpc.Header(&w.marks.header), grpc.Trailer(&w.marks.trailer)}
	if c.cfg.NonIdempotent {
		w.options = append(w.options, grpc.Peer(&w.to))
	}
	return w
}

// run carries requests until the channel is closed, or a request of its own was abandoned by
// Cancel.
func (w *worker[IN, OUT]) run() { w.goOn(w.carry) }

// goOn calls the function first, and then carries requests. If a function of the user's ends the
// goroutine, another goroutine continues the request.
func (w *worker[IN, OUT]) goOn(first func() bool) {
	returned := false
	defer func() {
		if !returned {
			w.takeOver()
		}
	}()
	for more := first(); more; {
		more = w.carry()
	}
	returned = true
}

// carry carries one request.
func (w *worker[IN, OUT]) carry() bool {
	r, maxBytes := w.c.take()
	if r == nil {
		return false
	}
	most := len(r.calls)
	if !r.plain {
		if w.slot = w.c.share.take(w.c.ctx); w.slot != nil {
			maxBytes, most = min(maxBytes, w.slot.layout.bytes), min(most, w.slot.layout.rows)
			w.use()
		}
	}
	w.at = progress[IN]{r: r, maxBytes: maxBytes, stage: encoding}
	w.encode(r.calls, maxBytes, most)
	return w.dispatch()
}

// dispatch sends what was encoded, and settles the result.
func (w *worker[IN, OUT]) dispatch() bool {
	r, maxBytes := w.at.r, w.at.maxBytes
	w.at.stage = elsewhere
	unfit := w.fill()
	if w.c.sub.Config.Tracer != nil {
		w.gatherTraced(r.calls)
	}
	ctx, cancel, id, rows := w.c.launch(w, r)
	w.report() // rows that could not be encoded need not wait for an answer
	if rows == 0 {
		w.release(maxBytes, true)
		return true
	}
	w.at.id, w.at.cancel = id, cancel
	written, err := false, unfit
	var broken error
	if err == nil {
		w.at.stage = sending
		began := time.Now()
		if len(w.traced) > 0 {
			written, err = w.sendTraced(ctx, id, rows)
		} else {
			written, err = w.send(ctx, id)
		}
		if w.c.cfg.Observe != nil {
			broken = w.observe(Request{rows, time.Since(began), err, w.c.sub.Operator, w.c.sub.Index})
		}
		w.at.stage = elsewhere
	}
	return w.land(written, err, broken)
}

// land handles the end of the request: the error of the RPC, or of a user's function that is
// broken.
func (w *worker[IN, OUT]) land(written bool, err, broken error) bool {
	w.at.cancel()
	w.at.ended = true
	if w.shares {
		if w.at.ended = err == nil && broken == nil || w.ended.Load(); !w.c.landed(w) {
			w.c.share.give(w.slot, w.at.ended)
			return false
		}
	}
	if broken == nil {
		w.settle(w.at.r, w.at.id, written, err)
	} else {
		w.failBroken(w.at.r, broken)
	}
	w.release(w.at.maxBytes, w.at.ended)
	return true
}

// use makes the batch encode into the slot.
func (w *worker[IN, OUT]) use() {
	if w.placed == nil {
		w.placed = tensor.NewBatch(&w.c.sig)
	}
	w.batch = w.placed
	w.batch.Use(w.slot.inputs)
}

// fill builds the request from the batch.
func (w *worker[IN, OUT]) fill() error {
	if w.batch.Rows() == 0 {
		return nil // launch ends a request without rows
	}
	if err := w.req.Fill(w.batch); err != nil {
		return err
	}
	w.shares = w.slot != nil && w.slot.share(w.req, w.batch, w.c.cfg.SharedMemoryMin)
	return nil
}

// encode fills the batch from calls, and sets the fate of each. Calls that the codec refuses are
// completed.
func (w *worker[IN, OUT]) encode(calls []async.Call[IN], maxBytes, most int) {
	w.c.encoding.Lock()
	defer w.c.encoding.Unlock()
	now := time.Now()
	w.fates = slices.Grow(w.fates[:0], len(calls))[:len(calls)]
	i, encoded, ragged := 0, 0, 0
	defer func() {
		if w.at.exit != nil { // the remaining calls go into another request
			w.badRow(calls, i, w.at.exit)
			for k := i + 1; k < len(calls); k++ {
				w.fates[k] = later
			}
			w.checkRows(calls, encoded)
		}
	}()
	for i = range calls {
		call := &calls[i]
		bytes := w.batch.Bytes()
		switch {
		case !call.Deadline.IsZero() && !now.Before(call.Deadline):
			// The operator's timer ends this call; no attempt may start (A24).
			w.fates[i] = gone
			continue
		case encoded == most, ragged == raggedTries, encoded > 0 && bytes+bytes/encoded > maxBytes:
			w.fates[i] = later
			continue
		}
		mark := w.batch.Mark()
		err := w.encodeRow(mark, &call.Record)
		switch {
		case err == nil && encoded > 0 && w.batch.Bytes() > maxBytes:
			w.batch.Rollback(mark)
			w.fates[i] = later
			maxBytes = 0 // full
		case err == nil:
			w.fates[i] = wanted
			encoded++
			ragged = 0
		case encoded > 0 && errors.Is(err, tensor.ErrRagged):
			w.fates[i] = later
			ragged++
		default:
			w.badRow(calls, i, err)
		}
	}
	w.checkRows(calls, encoded)
}

// badRow completes a record that the codec refuses.
func (w *worker[IN, OUT]) badRow(calls []async.Call[IN], i int, err error) {
	w.fates[i] = gone
	w.fail(calls[i].ID, w.c.name.badRecord("the codec cannot encode it", err))
}

// checkRows refuses a batch whose row count is not the number of encoded records.
func (w *worker[IN, OUT]) checkRows(calls []async.Call[IN], encoded int) {
	if w.batch.Rows() != encoded {
		// Rows and records no longer match, so sending would mix up their answers.
		err := w.c.name.badRecord("the codec cannot encode it", fmt.Errorf(
			"%d records became %d rows; Encode may only append to the batch's columns and must not call EndRow, Rollback or Reset", encoded, w.batch.Rows()))
		for i := range calls {
			if w.fates[i] == wanted {
				w.fates[i] = gone
				w.fail(calls[i].ID, err)
			}
		}
	}
}

// encodeRow appends one record, or leaves the batch as it was.
func (w *worker[IN, OUT]) encodeRow(mark tensor.Mark, r *async.Record[IN]) (err error) {
	const where = "Encode of the codec"
	returned := false
	defer func() {
		if returned {
			return
		}
		w.batch.Rollback(mark)
		if v := recover(); v != nil {
			err = guard.Caught(where, v)
		} else {
			w.at.exit = guard.Exited(where)
		}
	}()
	err = w.c.codec.encode(w.batch, r)
	returned = true
	if err != nil {
		w.batch.Rollback(mark)
		return guard.Error(where, err)
	}
	return w.batch.EndRow()
}

// send sends the request and waits for the answer. With Config.NonIdempotent, written says that a
// failed request may have reached the server.
func (w *worker[IN, OUT]) send(ctx context.Context, id string) (written bool, err error) {
	w.req.Message().Id = id
	const method = oip.GRPCInferenceService_ModelInfer_FullMethodName
	w.marks.reset()
	w.to.Addr = nil
	err = w.c.conn.Invoke(ctx, method, w.req.Message(), &w.resp, w.options...)
	return w.c.cfg.NonIdempotent && w.to.Addr != nil, err
}

// decode completes every row that is still wanted from the answer.
func (w *worker[IN, OUT]) decode(r *group[IN]) {
	for w.at.row < len(r.calls) {
		if w.decodeRows(r); w.at.row < len(r.calls) { // it costs only its own record
			w.badAnswer(r)
		}
	}
	w.at.stage = elsewhere
	w.report()
	w.c.recycle(r)
}

// decodeRows decodes until the end, or until a row fails. One recover serves all rows up to that
// one.
func (w *worker[IN, OUT]) decodeRows(r *group[IN]) {
	const where = "Decode of the codec"
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			w.at.exit = guard.Caught(where, v)
		} else {
			w.at.exit = guard.Exited(where)
		}
	}()
	for ; w.at.row < len(r.calls); w.at.row++ {
		c := &r.calls[w.at.row]
		if r.fates[w.at.row] != wanted {
			continue
		}
		v, err := w.c.codec.decode(&c.Record, w.rows, w.at.row)
		if err != nil {
			w.at.exit = guard.Error(where, err)
			break
		}
		w.out = append(w.out, async.Completion[OUT]{ID: c.ID, Outputs: async.One(v)})
	}
	returned = true
}

// badAnswer fails the row at which decoding has stopped.
func (w *worker[IN, OUT]) badAnswer(r *group[IN]) {
	w.fail(r.calls[w.at.row].ID, w.c.name.badAnswer(w.at.exit))
	w.at.exit = nil
	w.at.row++
}

// blame fails a row with what the server says of its request. If that is about the content,
// judgeAccused first checks whether the model has changed.
func (w *worker[IN, OUT]) blame(c *async.Call[IN], f *failure) {
	if f.do == findRow || f.do == misfit {
		w.doubt = append(w.doubt, accusedRow[OUT]{async.Completion[OUT]{ID: c.ID, Err: f.Error}, w.c.accuseUntil(c.Deadline)})
		return
	}
	w.fail(c.ID, f.Error)
}

func (w *worker[IN, OUT]) fail(id async.CallID, err error) {
	w.out = append(w.out, async.Completion[OUT]{ID: id, Err: err})
}

// report hands over what has been completed, with one wake-up.
func (w *worker[IN, OUT]) report() {
	if len(w.doubt) > 0 {
		w.c.accuse(w.doubt)
		clear(w.doubt)
		w.doubt = w.doubt[:0]
	}
	if len(w.out) > 0 {
		w.c.complete(w.out)
		clear(w.out) // results must not be kept alive
		w.out = w.out[:0]
	}
}

// release drops the request's data, and a buffer that one large record has made too large.
func (w *worker[IN, OUT]) release(maxBytes int, ended bool) {
	if w.batch == w.own && w.batch.Bytes() > maxBytes {
		w.own = tensor.NewBatch(&w.c.sig)
	}
	w.batch.Reset()
	w.batch = w.own
	w.rows.Reset()
	w.req.Clear()
	w.resp.Reset()
	clear(w.traced)
	w.traced = w.traced[:0]
	if w.slot != nil {
		w.c.share.give(w.slot, ended)
		w.slot, w.shares, w.ended = nil, false, nil
	}
}
