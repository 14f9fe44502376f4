package sidecartest

import (
	"context"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// Call is one ModelInfer request as the sidecar saw it.
type Call struct {
	// Number counts the calls from 1, across restarts.
	Number int64 `json:"call"`
	// ID is the request's id, Model and Version what it asked for.
	ID      string `json:"id,omitempty"`
	Model   string `json:"model"`
	Version string `json:"version,omitempty"`
	// Connection is the number of the connection, in the order in which they were accepted, from 1.
	Connection uint64 `json:"connection"`
	Rows       int    `json:"rows"`
	// Bytes is the size of the request message.
	Bytes int `json:"bytes"`
	// First are the first elements of the first input of each row. Hash is over all bytes of all
	// inputs.
	First []float64 `json:"first,omitempty"`
	Hash  uint64    `json:"hash"`
	// Start and End are numbers of one sequence, to which Mark belongs too: an event with a
	// lower number came first. End is taken before the answer can reach the caller. It is 0
	// while the call has no answer.
	Start int64 `json:"start"`
	End   int64 `json:"end,omitempty"`
	// Arrived and Answered are the times of Start and End.
	Arrived  time.Time `json:"arrived"`
	Answered time.Time `json:"answered,omitzero"`
	// Code and Reason are those of the answer.
	Code   codes.Code `json:"code"`
	Reason string     `json:"reason,omitempty"`
}

// Spans reports whether the call was in progress at the mark.
func (c *Call) Spans(mark int64) bool { return c.Start < mark && (c.End == 0 || c.End > mark) }

// Status is what a sidecar counts.
type Status struct {
	// Calls is the number of ModelInfer requests that arrived, and Answered of those that have an
	// answer.
	Calls, Answered int64
	// Rows is the number of rows in requests that have no answer yet, and PeakRows the highest
	// value that it had.
	Rows, PeakRows int
	// PeakRowsOf is the highest number of rows without an answer, for each connection.
	PeakRowsOf map[uint64]int
	// Blocked is the number of calls that wait for Release.
	Blocked int
	// Connections is the number of open connections, and Accepted the number of all that were
	// accepted.
	Connections, Accepted int
	// Dials is the number of attempts to connect through Dialer, including refused ones.
	Dials int
}

// record keeps the log and the counts, and wakes goroutines that wait for a change.
type record struct {
	script *Script

	mu       sync.Mutex
	seq      int64
	calls    []Call
	status   Status
	rowsOf   map[uint64]int
	dials    []time.Time
	gate     chan struct{} // closed while calls may pass
	changed  chan struct{} // closed and replaced at each change
	schedule *mock.Schedule
}

func newRecord(script *Script) (*record, error) {
	schedule, err := mock.NewSchedule(script.Faults)
	if err != nil {
		return nil, err
	}
	r := &record{script: script, rowsOf: map[uint64]int{}, gate: make(chan struct{}), changed: make(chan struct{}), schedule: schedule}
	close(r.gate)
	r.status.PeakRowsOf = map[uint64]int{}
	return r, nil
}

// update changes the status under the lock and wakes waiting goroutines.
func (r *record) update(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

// start logs the arrival of a call.
func (r *record) start(msg *oip.ModelInferRequest, conn uint64) *Call {
	c := Call{ID: msg.GetId(), Model: msg.GetModelName(), Version: msg.GetModelVersion(), Connection: conn, Bytes: proto.Size(msg), Arrived: time.Now()}
	h := fnv.New64a()
	if tensors, err := oip.Tensors(msg); err == nil && len(tensors) > 0 {
		c.Rows, c.First = firstValues(tensors[0], r.script.Unbatched)
		for _, t := range tensors {
			h.Write(t.Raw)
		}
	}
	c.Hash = h.Sum64()
	r.update(func() {
		r.seq++
		r.status.Calls++
		c.Number, c.Start = r.status.Calls, r.seq
		r.calls = append(r.calls, c)
		r.status.Rows += c.Rows
		r.status.PeakRows = max(r.status.PeakRows, r.status.Rows)
		r.rowsOf[conn] += c.Rows
		r.status.PeakRowsOf[conn] = max(r.status.PeakRowsOf[conn], r.rowsOf[conn])
		if r.script.OnStart != nil {
			r.script.OnStart(c)
		}
	})
	return &c
}

// end logs the answer of a call.
func (r *record) end(c *Call, err error) {
	d := oip.Parse(err)
	r.update(func() {
		r.seq++
		c.End, c.Answered, c.Code, c.Reason = r.seq, time.Now(), d.Code, d.Reason
		r.calls[c.Number-1] = *c
		r.status.Answered++
		r.status.Rows -= c.Rows
		r.rowsOf[c.Connection] -= c.Rows
		if r.script.OnEnd != nil {
			r.script.OnEnd(*c)
		}
	})
}

// firstValues returns the rows of a tensor and the first element of each.
func firstValues(t tensor.Tensor, unbatched bool) (int, []float64) {
	spec := tensor.Spec{Name: t.Name, DType: t.DType, Row: t.Shape}
	n := 1
	if !unbatched && len(t.Shape) > 0 && t.Shape[0] < 1<<20 {
		spec.Row, n = t.Shape[1:], int(t.Shape[0])
	} else {
		unbatched = true
	}
	rows := tensor.NewRows(&tensor.Signature{Outputs: []tensor.Spec{spec}, Batched: !unbatched})
	if err := rows.Set(0, t.DType, t.Shape, t.Raw, n); err != nil {
		return n, nil
	}
	return n, mock.FirstValues(rows)
}

// pass makes a call wait while the sidecar is blocked.
func (r *record) pass(ctx context.Context) error {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	select {
	case <-gate:
		return nil
	default:
	}
	r.update(func() { r.status.Blocked++ })
	defer r.update(func() { r.status.Blocked-- })
	select {
	case <-gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Log returns every call so far, in the order of their arrival.
func (s *Server) Log() []Call {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return slices.Clone(s.record.calls)
}

// Mark returns the next number of the sequence of Call.Start and Call.End, so that a test can
// compare calls with an event of its own.
func (s *Server) Mark() int64 {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	s.record.seq++
	return s.record.seq
}

// Status returns the counts.
func (s *Server) Status() Status {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	st := s.record.status
	st.PeakRowsOf = maps.Clone(st.PeakRowsOf)
	return st
}

// Dials returns the times at which Dialer's function was called.
func (s *Server) Dials() []time.Time {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return slices.Clone(s.record.dials)
}

// Wait waits until the function returns true for the counts, and returns them. It does not poll: it
// looks at each change. The error is that of ctx.
func (s *Server) Wait(ctx context.Context, until func(Status) bool) (Status, error) {
	for {
		s.record.mu.Lock()
		st, changed := s.record.status, s.record.changed
		st.PeakRowsOf = maps.Clone(st.PeakRowsOf)
		s.record.mu.Unlock()
		if until(st) {
			return st, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return st, context.Cause(ctx)
		}
	}
}
