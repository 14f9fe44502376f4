package stream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	guards "github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// sliceSplit is the number of values in a split of FromSlice.
const sliceSplit = 1024

// FromSlice makes a source that reads values from memory, in splits of 1024. The records have no
// event times. Their position is the index of the value. The slice must not change while the job
// runs, and must be the same when the job is resumed.
func FromSlice[T any](values []T) connector.Source[T] { return sliceSource[T](values) }

type sliceSource[T any] []T

// sliceRange is Split.Data of a FromSlice: the values from Split.Start up to, but not including,
// End, of Len values.
type sliceRange struct {
	End int64 `json:"end"`
	Len int   `json:"len"`
}

func (s sliceSource[T]) Splits(context.Context) ([]connector.Split, error) {
	var splits []connector.Split
	for at := 0; at < len(s); at += sliceSplit {
		data, err := json.Marshal(sliceRange{int64(min(at+sliceSplit, len(s))), len(s)})
		if err != nil {
			return nil, err
		}
		splits = append(splits, connector.Split{Data: data, Start: int64(at)})
	}
	return splits, nil
}

func (s sliceSource[T]) bounds(split connector.Split) (sliceRange, error) {
	var r sliceRange
	if err := json.Unmarshal(split.Data, &r); err != nil {
		return r, fmt.Errorf("the description of a slice's split is damaged: %w", err)
	}
	if r.Len != len(s) || split.Start < 0 || r.End > int64(len(s)) {
		return r, fmt.Errorf("the slice had %d values and now has %d; resume with the same slice", r.Len, len(s))
	}
	return r, nil
}

func (s sliceSource[T]) Verify(_ context.Context, splits []connector.Split, _ []int64) error {
	for _, split := range splits {
		if _, err := s.bounds(split); err != nil {
			return err
		}
	}
	return nil
}

func (s sliceSource[T]) Open(_ context.Context, split connector.Split, position int64) (connector.Reader[T], error) {
	r, err := s.bounds(split)
	if err != nil {
		return nil, err
	}
	if position < split.Start || position > r.End {
		return nil, fmt.Errorf("position %d is not within %d to %d", position, split.Start, r.End)
	}
	return &sliceReader[T]{s, position, r.End}, nil
}

type sliceReader[T any] struct {
	values []T
	at, to int64
}

func (r *sliceReader[T]) Read(_ context.Context, dst []Record[T], max int) ([]Record[T], int64, error) {
	for n := 0; n < max && r.at < r.to; n++ {
		dst = append(dst, Record[T]{Value: r.values[r.at], Time: async.NoTime, Position: r.at})
		r.at++
	}
	if r.at == r.to {
		return dst, r.at, io.EOF
	}
	return dst, r.at, nil
}

func (r *sliceReader[T]) Close() error { return nil }

// FromSeq makes a source that reads a sequence as one split, in one subtask, with any parallelism.
// An error that the sequence yields fails the job. The job pulls the sequence from a goroutine of
// its own. Nothing can interrupt it there, so it should end when the job's context does.
//
// A restart or a resumption is refused unless replayable is true. replayable says that the sequence
// yields the same values each time. It is then read from its beginning, and the values that were
// read before are skipped.
func FromSeq[T any](seq iter.Seq2[T, error], replayable bool) connector.Source[T] {
	return &seqSource[T]{seq: seq, replayable: replayable}
}

type seqSource[T any] struct {
	seq        iter.Seq2[T, error]
	replayable bool
}

func (s *seqSource[T]) Splits(context.Context) ([]connector.Split, error) {
	if s.seq == nil {
		return nil, errors.New("the sequence is nil")
	}
	return []connector.Split{{}}, nil
}

func (s *seqSource[T]) Verify(context.Context, []connector.Split, []int64) error {
	if !s.replayable {
		return errors.New("the sequence is not replayable (see stream.FromSeq)")
	}
	return nil
}

func (s *seqSource[T]) Open(_ context.Context, _ connector.Split, position int64) (connector.Reader[T], error) {
	next, stop := iter.Pull2(guarded(s.seq))
	r := &seqReader[T]{next: next, stop: stop}
	for r.at < position {
		if _, err, ok := next(); err != nil || !ok {
			stop()
			return nil, fmt.Errorf("the sequence is not the same as before: it ends or fails at value %d, before value %d: %w", r.at, position, cmp.Or(err, io.ErrUnexpectedEOF))
		}
		r.at++
	}
	return r, nil
}

// guarded returns seq with its panics as errors. They have the stack, which iter.Pull2 would lose.
func guarded[T any](seq iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		const where = "the sequence"
		returned := false
		defer func() {
			if returned {
				return
			}
			err := guards.Exited(where)
			if v := recover(); v != nil {
				err = guards.Caught(where, v)
			}
			var zero T
			yield(zero, err)
		}()
		seq(func(v T, err error) bool { return yield(v, guards.Error(where, err)) })
		returned = true
	}
}

type seqReader[T any] struct {
	next func() (T, error, bool)
	stop func()
	at   int64
}

// Read returns one value at a time, because the next one may take long to come.
func (r *seqReader[T]) Read(ctx context.Context, dst []Record[T], _ int) ([]Record[T], int64, error) {
	if err := ctx.Err(); err != nil {
		return dst, r.at, err
	}
	v, err, ok := r.next()
	switch {
	case !ok:
		return dst, r.at, io.EOF
	case err != nil: // also io.EOF, since a sequence ends without an error
		return dst, r.at, fmt.Errorf("the sequence yielded an error: %w", err)
	}
	dst = append(dst, Record[T]{Value: v, Time: async.NoTime, Position: r.at})
	r.at++
	return dst, r.at, nil
}

func (r *seqReader[T]) Close() error {
	r.stop()
	return nil
}

// Collect ends a stream in memory, for tests and small results. Options: Name, Parallel.
func Collect[T any](s *Stream[T], opts ...SinkOption) *Collected[T] {
	c := &Collected[T]{pending: map[int64][]Record[T]{}}
	To(s, c, opts...)
	return c
}

// Collected holds the results of a stream, each exactly once, also after restarts within a run. A
// run that collects a stream cannot be resumed in another process. A user calls Results and
// Records, from any goroutine. Its other methods make it a connector.Sink.
type Collected[T any] struct {
	mu        sync.Mutex
	pending   map[int64][]Record[T] // prepared, by number
	prepared  int64
	published []collectedPart[T]
	plans     int64 // the newest plan that was carried out
}

type collectedPart[T any] struct {
	plan, number int64
	split        int
	recs         []Record[T]
}

// Results returns the values that are published so far, by split. Within a split they are in the
// order in which they were emitted. After an ordered job that is the order of the input.
func (c *Collected[T]) Results() []T {
	var values []T
	for _, r := range c.Records() {
		values = append(values, r.Value)
	}
	return values
}

// Records returns the same results as Results, with their times, keys, splits and positions.
func (c *Collected[T]) Records() []Record[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Record[T]
	for _, p := range c.published {
		all = append(all, p.recs...)
	}
	return all
}

// Open makes the writer of one subtask.
func (c *Collected[T]) Open(context.Context, async.Subtask) (connector.Writer[T], error) {
	return &collector[T]{c: c}, nil
}

// Committer makes the committer that publishes the results of completed checkpoints.
func (c *Collected[T]) Committer(context.Context) (connector.Committer, error) {
	return &collectCommitter[T]{c}, nil
}

type collector[T any] struct {
	c    *Collected[T]
	recs []Record[T]
}

func (w *collector[T]) Write(recs []Record[T]) error {
	w.recs = append(w.recs, recs...)
	return nil
}

func (w *collector[T]) Prepare(context.Context, int64) ([]connector.Pending, error) {
	slices.SortStableFunc(w.recs, func(a, b Record[T]) int { return cmp.Compare(a.Split, b.Split) })
	var names []connector.Pending
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	for len(w.recs) > 0 {
		n := 1
		for n < len(w.recs) && w.recs[n].Split == w.recs[0].Split {
			n++
		}
		w.c.prepared++
		w.c.pending[w.c.prepared] = w.recs[:n:n]
		data, err := json.Marshal(w.c.prepared)
		if err != nil {
			return nil, err
		}
		names = append(names, connector.Pending{Split: w.recs[0].Split, Data: data})
		w.recs = w.recs[n:]
	}
	w.recs = nil
	return names, nil
}

func (w *collector[T]) Close() error { return nil }

// collectPlan is what one checkpoint publishes.
type collectPlan struct {
	Number int64         `json:"number"`
	Parts  []collectName `json:"parts"`
}

type collectName struct {
	Split  int   `json:"split"`
	Number int64 `json:"number"`
}

type collectCommitter[T any] struct{ c *Collected[T] }

var errCollected = errors.New("the results of an earlier process are gone with its memory; a stream that is collected cannot be resumed elsewhere")

func (k *collectCommitter[T]) Begin(context.Context, []byte) ([]byte, error) {
	return []byte("0"), nil
}

func (k *collectCommitter[T]) Plan(state []byte, pending []connector.Pending) (next, plan []byte, err error) {
	var p collectPlan
	if err := json.Unmarshal(state, &p.Number); err != nil {
		return nil, nil, err
	}
	p.Number++
	for _, one := range pending {
		n := collectName{Split: one.Split}
		if err := json.Unmarshal(one.Data, &n.Number); err != nil {
			return nil, nil, err
		}
		p.Parts = append(p.Parts, n)
	}
	if plan, err = json.Marshal(p); err != nil {
		return nil, nil, err
	}
	next, err = json.Marshal(p.Number)
	return next, plan, err
}

func (k *collectCommitter[T]) Commit(_ context.Context, plan []byte) error {
	var p collectPlan
	if err := json.Unmarshal(plan, &p); err != nil {
		return err
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	if p.Number <= k.c.plans {
		return nil
	}
	if p.Number != k.c.plans+1 {
		return errCollected
	}
	for _, n := range p.Parts {
		recs, ok := k.c.pending[n.Number]
		if !ok {
			return errCollected
		}
		k.c.published = append(k.c.published, collectedPart[T]{p.Number, n.Number, n.Split, recs})
	}
	for _, n := range p.Parts {
		delete(k.c.pending, n.Number)
	}
	k.c.plans = p.Number
	slices.SortStableFunc(k.c.published, func(a, b collectedPart[T]) int {
		return cmp.Or(cmp.Compare(a.split, b.split), cmp.Compare(a.plan, b.plan))
	})
	return nil
}

func (k *collectCommitter[T]) Clean(context.Context) error {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	clear(k.c.pending)
	return nil
}

func (k *collectCommitter[T]) Close() error { return nil }

// NewMemoryStore returns a store that keeps the newest checkpoint in memory. It is for tests, and
// for jobs whose checkpoints need not outlive the process.
func NewMemoryStore() CheckpointStore { return &memoryStore{} }

type memoryStore struct {
	mu     sync.Mutex
	newest *checkpoint.Snapshot
}

func (m *memoryStore) Write(_ context.Context, s *checkpoint.Snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.newest = s
	return nil
}

func (m *memoryStore) Newest(context.Context) (*checkpoint.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.newest == nil {
		return nil, checkpoint.ErrNoCheckpoint
	}
	return m.newest, nil
}
