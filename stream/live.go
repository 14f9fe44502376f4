package stream

import (
	"context"
	"fmt"
)

// Live is a Source whose splits have no end, such as the partitions of a log. All splits
// of a subtask are read at once; those of other sources one after another. A job with one does
// not end by itself, and needs a checkpoint interval: it is refused without one. Open of a Live
// source is not called.
type Live[T any] interface {
	Source[T]
	// OpenAll makes the reader of one subtask, which may have no splits.
	OpenAll(ctx context.Context, splits []LiveSplit) (LiveReader[T], error)
}

// LiveSplit is a split of a subtask, and where it is read from.
type LiveSplit struct {
	Index    int
	Split    Split
	Position int64
}

// LiveReader reads several splits, from one goroutine.
type LiveReader[T any] interface {
	// Read appends about max records of one split to dst and returns them with the
	// split's index and the position behind the last of them. It blocks until there is one, or none but a greater position, where
	// a log has entries that are no records, and returns ctx.Err() when ctx ends. Each split is read in its order; none is left waiting while others go on.
	// These splits have no end, so io.EOF is a failure as any other error.
	Read(ctx context.Context, dst []Record[T], max int) (split int, recs []Record[T], next int64, err error)
	Close() error
}

// Elastic is implemented by a Source whose splits change while a job runs: more appear, or several
// processes share them and share them out anew. When they change, a checkpoint is taken behind which
// nothing is emitted, every subtask is closed, and the job goes on from that checkpoint with the new splits.
type Elastic interface {
	// Changed waits until the splits have changed since the last Assign. An error is a failure of the job, to
	// which its restart strategy applies. It returns when ctx ends.
	Changed(ctx context.Context) error
	// Assign returns the splits from now on, and the position of each. It is called before every attempt, when
	// nothing is read and the results of the last checkpoint are published. splits and next are those of
	// that checkpoint, or what Splits returned. The result's order numbers the splits anew. An error is a failure
	// of the job, to which its restart strategy applies, before the first attempt too: Splits has found the source.
	Assign(ctx context.Context, splits []Split, next []int64) (now []Split, from []int64, err error)
}

// Holder is implemented by a Writer that may have no room while a checkpoint is being completed.
type Holder interface {
	// Full says that nothing more should be written for now.
	Full() bool
	// Over says that a checkpoint for which Prepare was called is complete and published, or was given up.
	Over(checkpoint int64, complete bool) error
}

// elastic returns the sources whose splits may change, by their names.
func (r *Run) elastic() map[string]Elastic {
	all := map[string]Elastic{}
	for _, n := range r.job.nodes {
		if n.source != nil && n.source.elastic != nil {
			all[n.name] = n.source.elastic
		}
	}
	return all
}

// assign asks the elastic sources for their splits, before an attempt that would begin with the
// given ones, and puts them in their place.
func (r *Run) assign(ctx context.Context, splits map[string][]splitState) error {
	for name, e := range r.elastic() {
		var was []Split
		var next []int64
		for _, s := range splits[name] {
			was, next = append(was, s.split), append(next, s.next)
		}
		err := guard("Assign of "+name, func() error {
			now, at, err := e.Assign(ctx, was, next)
			if err != nil {
				return err
			}
			if len(at) != len(now) {
				return fmt.Errorf("%d splits and %d positions; want one for each", len(now), len(at))
			}
			all := make([]splitState, len(now))
			for i, s := range now {
				all[i] = splitState{index: i, split: s, next: at[i]}
			}
			splits[name] = all
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: cannot find out what to read: %w", name, err)
		}
	}
	return nil
}

// watchSplits waits for each elastic source until its splits have changed, and reports that.
func (r *Run) watchSplits(ctx context.Context, inbox *mailbox[message], run func(func())) {
	for name, e := range r.elastic() {
		run(func() {
			err := errNotReturned
			defer func() {
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					err = fmt.Errorf("%s: %w", name, err)
				}
				inbox.send(message{changed: true, err: err})
			}()
			err = guard("Changed of "+name, func() error { return e.Changed(ctx) })
		})
	}
}
