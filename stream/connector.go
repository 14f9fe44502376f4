package stream

import (
	"context"

	"github.com/tensorferry/tensorferry/async"
)

// Record is one element of a stream: a value, its event time, and the split and
// position of the source record that it comes from.
type Record[T any] = async.Record[T]

// EventTime is a record's own time in milliseconds since the Unix epoch.
type EventTime = async.EventTime

// Split is a contiguous part of a source that is read in order by one subtask: a
// range of a file, a partition of a log. Its number is its index in the slice
// that Splits returned.
type Split struct {
	// Data is the connector's own description of the split, as it is stored in
	// checkpoints. It must suffice to read the split again, and to see that the
	// thing behind it has changed.
	Data []byte
	// Start is the position of the split's first record.
	Start int64
}

// Source cuts an input into splits and reads them. It is shared between
// subtasks and must be safe for concurrent use.
type Source[T any] interface {
	// Splits cuts the input. It is called once for a run that starts afresh; the
	// cut is kept in every checkpoint, the first time before anything is read, and given
	// back after a restore. It must not depend on parallelism. Splits are numbered in the
	// order of the input.
	Splits(ctx context.Context) ([]Split, error)
	// Verify says whether what the splits of a checkpoint name is still there and
	// unchanged up to the given positions (next[i] for splits[i]). It is called
	// once before a restored run reads anything; an error refuses the restore.
	Verify(ctx context.Context, splits []Split, next []int64) error
	// Open reads a split from a position, which is Split.Start, the Position of
	// a record of it, or the Next of a batch.
	Open(ctx context.Context, split Split, position int64) (Reader[T], error)
}

// Reader reads one split, from one goroutine.
type Reader[T any] interface {
	// Read appends at least one and about max records to dst and returns it with
	// the position behind the last of them. It may block until there is one, and
	// returns ctx.Err() when ctx ends. At the end of the split it returns io.EOF,
	// with or without last records. Only io.EOF itself is an end: an error that wraps it, or
	// io.ErrUnexpectedEOF, is a failure as any other, and so is io.EOF from any other method.
	// Value, Time and Position of the records are
	// the reader's to set; ownership of the values passes to the caller.
	Read(ctx context.Context, dst []Record[T], max int) (recs []Record[T], next int64, err error)
	Close() error
}

// Describer is implemented by a Reader that knows its split the better the more it has read of it,
// as by a checksum of what lies before a position.
type Describer interface {
	// Describe appends to dst what a checkpoint is to keep as Split.Data when its position is the
	// one that the last Read returned, or lies behind it and before that of the next. Verify and
	// Open get it back. It is called after each Read that did not fail, by the same goroutine. What
	// it appends belongs to the caller.
	Describe(dst []byte) []byte
}

// Apart is implemented by a Source that can tell what it reads from what its own job writes.
type Apart interface {
	// Apart returns an error if the source reads, or would read in another run, what any of own
	// writes: these are the sinks of its job and its checkpoint store. What it cannot tell is no
	// error. It is called before anything is opened or read; an error ends the job.
	Apart(ctx context.Context, own ...any) error
}

// Sink writes a stream to an outside system, with results that become visible
// only when their checkpoint is complete. It is shared between subtasks.
type Sink[T any] interface {
	// Open makes the writer of one subtask.
	Open(ctx context.Context, sub SinkContext) (Writer[T], error)
	// Committer makes what the coordinator uses to publish the results of
	// completed checkpoints. One is in use at a time.
	Committer(ctx context.Context) (Committer, error)
}

// SinkContext describes one subtask to its writer.
type SinkContext struct {
	Operator             string
	Subtask, Parallelism int
	// Run names the run (the same after a restore), Attempt counts its starts
	// (restarts and resumptions), so that pending names never meet those of an
	// earlier attempt.
	Run     string
	Attempt int
}

// Writer writes the records of one subtask, from one goroutine.
type Writer[T any] interface {
	// Write takes records in order. The slice is valid until return, the values
	// are the writer's. It may buffer.
	Write(recs []Record[T]) error
	// Prepare makes everything written since the last Prepare durable but not
	// yet visible, and names it. It is called at barrier n, and for the final
	// checkpoint. Writing goes on afterwards into new pending results. What an
	// aborted checkpoint prepared stays prepared: the runtime adds it to the next.
	Prepare(ctx context.Context, checkpoint int64) ([]Pending, error)
	// Close gives everything back; what was not prepared is discarded. Idempotent.
	Close() error
}

// Pending names one prepared, invisible result.
type Pending struct {
	// Split is the source split of the records in it.
	Split int
	// Data is the connector's own description.
	Data []byte
}

// Committer publishes prepared results. State is its own memory across
// checkpoints (counters of parts, what was published so far) and travels in them.
// It is used from one goroutine.
type Committer interface {
	// Begin returns the state of a new run. previous is the last state of the
	// finished run that this one replaces, nil if there was none. What that run
	// published, and nothing else, is replaced with the new run's first commit.
	// Begin fails if the place holds foreign results that would be mixed up with ours.
	Begin(ctx context.Context, previous []byte) (state []byte, err error)
	// Plan decides where the pending results of one checkpoint will go. It does
	// no I/O: the new state and the plan are stored with the checkpoint, and only when
	// that is durable is the plan carried out. pending is in the order of subtasks.
	Plan(state []byte, pending []Pending) (next []byte, plan []byte, err error)
	// Commit carries a plan out and makes it durable. It is idempotent: after a
	// crash the plan of the restored checkpoint is carried out again.
	Commit(ctx context.Context, plan []byte) error
	// Clean removes the pending results of this job, of any attempt, that are not
	// published. It is called after the Commit of a restore, and when a run starts
	// afresh, before any writer is opened.
	Clean(ctx context.Context) error
	Close() error
}

// Checker is a Committer that can tell whether what it has published is still there.
type Checker interface {
	// Check says what is missing or has changed of all that was published up to a state, whose plan
	// has been carried out. It is called before a run goes on from a checkpoint, also from the last
	// one of a finished run. An error whose class is async.Permanent ends the run.
	Check(ctx context.Context, state []byte) error
}
