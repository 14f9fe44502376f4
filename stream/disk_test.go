package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

var errCrashed = errors.New("the process has crashed")

// disk is where the sinks and the store of tests keep things. What is on it
// outlives a crash; point is called before and after each change and may set crashed.
type disk struct {
	mu        sync.Mutex
	crashed   bool
	point     func(string)
	fault     func(string) error // may fail an operation, done or not
	pending   map[string][]Record[int]
	final     map[string][]Record[int]
	snaps     map[int64][]byte
	prepared  int // files
	commits   int
	recommits int
}

func newDisk() *disk {
	return &disk{
		point: func(string) {}, fault: func(string) error { return nil },
		pending: map[string][]Record[int]{}, final: map[string][]Record[int]{}, snaps: map[int64][]byte{},
	}
}

// change does one atomic change of the disk, unless the process crashes before it.
func (d *disk) change(what string, f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.point("before " + what); d.crashed {
		return errCrashed
	}
	if err := f(); err != nil {
		return err
	}
	if d.point("after " + what); d.crashed {
		return errCrashed
	}
	return nil
}

// output is what has been published, in the order of the names.
func (d *disk) output() []Record[int] {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Record[int]
	for _, name := range slices.Sorted(maps.Keys(d.final)) {
		all = append(all, d.final[name]...)
	}
	return all
}

func (d *disk) values() []int {
	var vs []int
	for _, r := range d.output() {
		vs = append(vs, r.Value)
	}
	return vs
}

// Write and Newest make it a CheckpointStore that goes through the real format.
func (d *disk) Write(_ context.Context, s *checkpoint.Snapshot) error {
	data := checkpoint.Encode(s)
	if err := d.fault("write"); err != nil && strings.HasPrefix(err.Error(), "not done") {
		return err
	}
	err := d.change(fmt.Sprintf("manifest %d", s.ID), func() error {
		if _, ok := d.snaps[s.ID]; ok {
			return fmt.Errorf("checkpoint %d is there already", s.ID)
		}
		d.snaps[s.ID] = data
		return nil
	})
	return errors.Join(err, d.fault("written"))
}

func (d *disk) Newest(context.Context) (*checkpoint.Snapshot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.snaps) == 0 {
		return nil, checkpoint.ErrNoCheckpoint
	}
	return checkpoint.Decode(d.snaps[slices.Max(slices.Collect(maps.Keys(d.snaps)))])
}

// diskSink is a two-phase sink on a disk: parts are named by split and a counter
// of the split, as a sink of files would.
type diskSink struct{ *disk }

func (s diskSink) Open(_ context.Context, sub async.Subtask) (connector.Writer[int], error) {
	return &diskWriter{disk: s.disk, sub: sub, recs: map[int][]Record[int]{}}, nil
}

func (s diskSink) Committer(context.Context) (connector.Committer, error) {
	return diskCommitter(s), nil
}

type diskWriter struct {
	*disk
	sub    async.Subtask
	recs   map[int][]Record[int]
	number int
	closed bool
}

func (w *diskWriter) Write(recs []Record[int]) error {
	if w.closed {
		return errors.New("write after close")
	}
	for _, r := range recs {
		w.recs[r.Split] = append(w.recs[r.Split], r)
	}
	return nil
}

func (w *diskWriter) Prepare(_ context.Context, id int64) ([]connector.Pending, error) {
	var all []connector.Pending
	for _, split := range slices.Sorted(maps.Keys(w.recs)) {
		w.number++
		name := fmt.Sprintf("%s-%d-%d-%d-%d-%d", w.sub.Run, w.sub.Attempt, w.sub.Index, split, id, w.number)
		err := w.change("pending "+name, func() error {
			if _, ok := w.pending[name]; ok {
				return fmt.Errorf("pending %s is there already", name)
			}
			w.pending[name] = w.recs[split]
			w.prepared++
			return nil
		})
		if err != nil {
			return nil, err
		}
		all = append(all, connector.Pending{Split: split, Data: []byte(name)})
	}
	w.recs = map[int][]Record[int]{}
	return all, w.fault("prepare")
}

func (w *diskWriter) Close() error {
	w.closed = true
	return nil
}

type diskCommitter struct{ *disk }

func (c diskCommitter) Begin(context.Context, []byte) ([]byte, error) {
	if len(c.final) > 0 {
		return nil, errors.New("a new run begins where there are results")
	}
	return []byte("{}"), nil
}

func (c diskCommitter) Plan(state []byte, pending []connector.Pending) (next, plan []byte, err error) {
	counters := map[int]int{}
	if err := json.Unmarshal(state, &counters); err != nil {
		return nil, nil, err
	}
	var moves [][2]string
	for _, p := range pending {
		moves = append(moves, [2]string{string(p.Data), fmt.Sprintf("part-%05d-%05d", p.Split, counters[p.Split])})
		counters[p.Split]++
	}
	plan, err = json.Marshal(moves)
	if err == nil {
		next, err = json.Marshal(counters)
	}
	return next, plan, err
}

func (c diskCommitter) Commit(_ context.Context, plan []byte) error {
	var moves [][2]string
	if err := json.Unmarshal(plan, &moves); err != nil {
		return err
	}
	for _, m := range moves {
		err := c.change("commit "+m[1], func() error {
			recs, isPending := c.pending[m[0]]
			_, isFinal := c.final[m[1]]
			switch {
			case isPending && isFinal:
				return fmt.Errorf("%s is there already, and %s as well", m[1], m[0])
			case !isPending && !isFinal:
				return fmt.Errorf("neither %s nor %s is there", m[0], m[1])
			case isFinal:
				c.recommits++
				return nil
			}
			c.final[m[1]] = recs
			delete(c.pending, m[0])
			c.commits++
			return nil
		})
		if err != nil {
			return err
		}
	}
	return c.fault("commit")
}

func (c diskCommitter) Clean(context.Context) error {
	return c.change("clean", func() error {
		clear(c.pending)
		return nil
	})
}

func (c diskCommitter) Close() error { return nil }
