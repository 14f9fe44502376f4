package stream

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// settle finds out what an attempt reads, and keeps that in a checkpoint before the first record is
// read (A46), because a source may answer otherwise when it is asked again. from is nil for the
// run's beginning. If the checkpoint cannot be written, that is tolerated as often as for any other
// checkpoint, but nothing is read meanwhile.
func (r *Run) settle(ctx context.Context, number int, from *restored) error {
	for failures := 1; ; failures++ {
		failed, err := r.tryToSettle(ctx, number, from)
		if failed != nil && (failures > r.cfg.Checkpoint.TolerableFailures || async.VerdictOf(failed).Class == async.Permanent) {
			return failed
		}
		if failed == nil {
			return err
		}
		if err := r.pause(ctx, cmp.Or(r.cfg.Checkpoint.Interval, time.Second)); err != nil {
			return err
		}
	}
}

// tryToSettle is one try of settle. failed says that the checkpoint could not be written.
func (r *Run) tryToSettle(ctx context.Context, number int, from *restored) (failed, err error) {
	was, splits := r.kept, r.cut
	if from != nil {
		was, splits = maps.Clone(from.splits), from.splits
	}
	if err := r.assign(ctx, splits); err != nil {
		return nil, err
	}
	if was != nil && sameSplits(was, splits) {
		return nil, nil
	}
	snap := r.positions(number, from, splits)
	// A write that fails may have been done, so its number is not used again.
	r.lastID, r.numbered = snap.ID, true
	err = r.keep(ctx, snap)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, err
	case err != nil:
		r.note(CheckpointFailed{snap.ID, fmt.Errorf("it cannot be written: %w", err)})
		return fmt.Errorf("checkpoint %d, which says where the sources are read from, cannot be written, and nothing is read without it: %w", snap.ID, err), nil
	case from == nil:
		r.kept = maps.Clone(splits)
	}
	return nil, nil
}

// keep writes a checkpoint.
func (r *Run) keep(ctx context.Context, snap *checkpoint.Snapshot) error {
	err := guard("Write of the checkpoint store", func() error { return r.cfg.Checkpoint.Store.Write(ctx, snap) })
	if errors.Is(err, checkpoint.ErrLockLost) {
		err = lostLock{err}
	}
	return err
}

// lostLock is the failure of a job whose checkpoint folder may belong to another process by now.
type lostLock struct{ err error }

func (e lostLock) Error() string { return e.err.Error() }
func (e lostLock) Unwrap() error { return e.err }

// Verdict makes it an async.Failure that is Permanent, because a restart does not help.
func (lostLock) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// positions makes the checkpoint of an attempt that has not read anything yet. It publishes
// nothing, so its sinks have no plans. The one of a run's beginning has the number 0.
func (r *Run) positions(number int, from *restored, splits map[string][]splitState) *checkpoint.Snapshot {
	snap := r.header(number)
	snap.ID, snap.Created = r.lastID+1, time.Now()
	if from == nil && r.lastID == 0 && !r.numbered {
		snap.ID = 0
	}
	if from != nil {
		snap.Counters = from.counters
	} else {
		snap.Counters = countersOf(r.operators, nil)
	}
	for _, o := range r.operators {
		sec := checkpoint.Section{Operator: o.name, Kind: o.kind, Parallelism: o.parallelism}
		switch o.kind {
		case "":
			continue
		case checkpoint.KindSource:
			for _, s := range splits[o.name] {
				sec.Parts = append(sec.Parts, checkpoint.Part{
					Split: s.index, Subtask: s.index % o.parallelism, Name: checkpoint.PartSplit, Data: s.position().Append(nil),
				})
			}
		case checkpoint.KindAsync:
			if from != nil {
				sec = from.async[o.name]
			}
		case checkpoint.KindSink:
			sec.Parts = []checkpoint.Part{{Split: -1, Name: partState, Data: r.committer.state(o.name)}}
		}
		snap.Sections = append(snap.Sections, sec)
	}
	return &snap
}

// sameSplits reports whether two checkpoints say the same about where sources are read from. The
// position at which a split once began does not matter.
func sameSplits(a, b map[string][]splitState) bool {
	return maps.EqualFunc(a, b, func(a, b []splitState) bool {
		return slices.EqualFunc(a, b, func(a, b splitState) bool {
			return a.index == b.index && a.next == b.next && bytes.Equal(a.split.Data, b.split.Data)
		})
	})
}
