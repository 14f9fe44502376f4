package connector

import (
	"context"

	"github.com/tensorferry/tensorferry/async"
)

// Sink writes a stream to another system. Results should become visible when their checkpoint is
// complete, and not before; a sink that cannot do that says so. All subtasks share it, so it must
// be safe for concurrent use.
type Sink[T any] interface {
	// Open makes the writer of one subtask. sub.Run and sub.Attempt name what the writer
	// prepares, so that it never meets what an earlier attempt prepared. sub.Config is not set.
	Open(ctx context.Context, sub async.Subtask) (Writer[T], error)
	// Committer makes the committer that publishes the results of completed checkpoints. One is
	// in use at a time.
	Committer(ctx context.Context) (Committer, error)
}

// Writer writes the records of one subtask. One goroutine uses it.
type Writer[T any] interface {
	// Write takes records in order. The slice is valid until Write returns; the values belong
	// to the writer. It may buffer.
	Write(recs []async.Record[T]) error
	// Prepare makes everything that was written since the last Prepare durable but not yet
	// visible, and names it. It is called at each barrier, with the number of the checkpoint,
	// and for the final checkpoint. Writing then goes on into new pending results. If the
	// checkpoint is aborted, what was prepared stays prepared: the runtime adds it to the next
	// checkpoint.
	Prepare(ctx context.Context, checkpoint int64) ([]Pending, error)
	// Close releases what the writer holds, and discards what was not prepared. It is
	// idempotent.
	Close() error
}

// LimitedWriter is an optional interface of a Writer that may have no room while a checkpoint is
// being completed.
type LimitedWriter interface {
	// Full reports whether the runtime should write nothing more for now.
	Full() bool
	// CheckpointDone is called when a checkpoint for which Prepare was called is complete and
	// published, or was given up.
	CheckpointDone(checkpoint int64, complete bool) error
}

// Pending names one result that is prepared and not visible.
type Pending struct {
	// Split is the source split of the records in it.
	Split int
	// Data is the connector's own description.
	Data []byte
}

// Committer publishes prepared results. Its state is what it must remember from one checkpoint to
// the next: counters of parts, and what was published so far. Checkpoints keep it. One goroutine
// uses a committer.
type Committer interface {
	// Begin returns the state of a new run. previous is the last state of the finished run that
	// this one replaces, or nil if there was none. The new run's first commit replaces what
	// that run published, and nothing else. Begin fails if the place holds results of others
	// that would be mixed with ours.
	Begin(ctx context.Context, previous []byte) (state []byte, err error)
	// Plan decides where the pending results of one checkpoint will go. It does no I/O: the
	// checkpoint keeps the new state and the plan, and the plan is carried out when the
	// checkpoint is durable. pending is in the order of subtasks.
	Plan(state []byte, pending []Pending) (next []byte, plan []byte, err error)
	// Commit carries out a plan and makes it durable. It is idempotent: after a crash the plan
	// of the restored checkpoint is carried out again.
	Commit(ctx context.Context, plan []byte) error
	// Clean removes the pending results of this job, of any attempt, that are not published. It
	// is called after the Commit of a restore, and when a run begins afresh, before any writer
	// is opened.
	Clean(ctx context.Context) error
	// Close releases what the committer holds. It is called once.
	Close() error
}

// Checker is an optional interface of a Committer. It is for committers that can tell whether what
// they published is still there.
type Checker interface {
	// Check verifies everything that was published up to state. It is called after Commit of that
	// state's plan: before a run goes on from a checkpoint, and for the last checkpoint of a
	// finished run. It returns an error if anything is missing or has changed. An error of class
	// async.Permanent ends the run; any other one is a failure of the job, to which its restart
	// strategy applies.
	Check(ctx context.Context, state []byte) error
}

// Rewinder is an optional interface of a Committer. It is for committers that can go back to a
// checkpoint that is not the newest of its run, with what was published since.
type Rewinder interface {
	// Rewind returns the state to go on with. state is that of the checkpoint to go back to.
	// newest is that of the newest checkpoint, whose plan has been carried out. The next plan
	// replaces what was published between them.
	Rewind(state, newest []byte) ([]byte, error)
}

// SalvageOptions says what is known about results that no checkpoint tells of, and what becomes of
// them.
type SalvageOptions struct {
	// NewerGone says that there was a newer checkpoint, which is damaged or gone.
	NewerGone bool
	// Compare keeps what is there, and compares the results that follow with it. The job must make
	// the same results each time, in the same order. Without Compare the next plan replaces what is
	// there.
	Compare bool
}

// Salvager is an optional interface of a Committer. It is for committers that can go on from a
// checkpoint although more was published after it, when no checkpoint tells of that any more: the
// newer ones are damaged or gone.
type Salvager interface {
	// Salvage looks for what was published after a state. A nil state means that nothing is
	// known about the run. Salvage returns the names of what it found and, if it found
	// anything, the state to go on with. An error of class async.Permanent says what is in the
	// way.
	Salvage(ctx context.Context, state []byte, opts SalvageOptions) (next []byte, beyond []string, err error)
	// Unsettled returns an error if the input ended before all results that Salvage kept were
	// made again.
	Unsettled(state []byte) error
}
