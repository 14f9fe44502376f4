package connector

import (
	"context"

	"github.com/tensorferry/tensorferry/async"
)

// Split is a part of a source that one subtask reads in order: a range of a file, a partition of a
// log. Its number is its index in the slice that Splits returned.
type Split struct {
	// Data is the connector's own description of the split. Checkpoints keep it. It must be
	// enough to read the split again, and to see that the thing behind it has changed.
	Data []byte
	// Start is the position of the split's first record.
	Start int64
}

// Source cuts an input into splits and reads them. All subtasks share it, so it must be safe for
// concurrent use.
type Source[T any] interface {
	// Splits cuts the input. It is called once for a run that begins afresh. Every checkpoint
	// keeps the cut, the first one before anything is read, and a restore passes it to Verify
	// and Open. The cut must not depend on parallelism. Splits are numbered in the order of the
	// input.
	Splits(ctx context.Context) ([]Split, error)
	// Verify returns an error if what the splits of a checkpoint name is gone, or has changed
	// before the given positions (next[i] for splits[i]). It is called once before a restored
	// run reads anything; an error refuses the restore.
	Verify(ctx context.Context, splits []Split, next []int64) error
	// Open makes the reader of a split from a position: Split.Start, the Position of a record
	// of the split, or the next position that Read returned.
	Open(ctx context.Context, split Split, position int64) (Reader[T], error)
}

// Reader reads one split. One goroutine uses it.
type Reader[T any] interface {
	// Read appends at least one and about max records to dst. It returns dst and the position
	// behind the last record. It may block until a record arrives, and returns ctx.Err() when
	// ctx ends.
	//
	// At the end of the split it returns io.EOF, with or without last records. Only io.EOF
	// itself is the end: an error that wraps it, or io.ErrUnexpectedEOF, is a failure, and so
	// is io.EOF from any other method.
	//
	// The reader sets Value, Time and Position of the records. The values belong to the runtime
	// when Read has returned.
	Read(ctx context.Context, dst []async.Record[T], max int) (recs []async.Record[T], next int64, err error)
	// Close releases what the reader holds. It is called once.
	Close() error
}

// Describer is an optional interface of a Reader. It is for readers that know more about their
// split the further they have read, as a checksum of what lies before a position.
type Describer interface {
	// Describe appends a new Split.Data to dst. A checkpoint keeps it with the position that the
	// last Read returned. It stays true until the next Read. Verify and Open get it after a
	// restore. The goroutine that reads calls it after each Read that did not fail. The appended
	// bytes belong to the runtime.
	Describe(dst []byte) []byte
}

// LoopChecker is an optional interface of a Source. It is for sources that can tell what they read
// from what their own job writes.
type LoopChecker interface {
	// CheckLoop returns an error if the source reads, now or in another run, what any of own
	// writes. own are the sinks of the job and its checkpoint store. If the source cannot tell,
	// that is not an error. CheckLoop is called before anything is opened or read; an error ends
	// the job.
	CheckLoop(ctx context.Context, own ...any) error
}

// Unbounded is a Source whose splits have no end, such as the partitions of a log. A subtask reads
// all its splits at once, while it reads the splits of other sources one after another. A job with
// an unbounded source does not end by itself. It is refused without a checkpoint interval. Open of
// an unbounded source is not called.
type Unbounded[T any] interface {
	Source[T]
	// OpenAll makes the reader of one subtask, which may have no splits.
	OpenAll(ctx context.Context, splits []AssignedSplit) (UnboundedReader[T], error)
}

// AssignedSplit is a split of a subtask, and the position from which it is read.
type AssignedSplit struct {
	Index    int
	Split    Split
	Position int64
}

// UnboundedReader reads all splits of a subtask. One goroutine uses it.
type UnboundedReader[T any] interface {
	// Read appends about max records of one split to dst. It returns dst, the split's index and
	// the position behind the last record. It blocks until a record arrives. It may return no
	// records and a higher position, for logs with entries that are not records, such as
	// transaction markers. It returns ctx.Err() when ctx ends.
	//
	// Each split is read in its order, and none waits for ever while others go on. These splits
	// have no end, so io.EOF is a failure like any other error.
	Read(ctx context.Context, dst []async.Record[T], max int) (split int, recs []async.Record[T], next int64, err error)
	// Close releases what the reader holds. It is called once.
	Close() error
}

// Rebalancing is an optional interface of a Source whose splits change while a job runs: more
// appear, or several processes share them and divide them anew. When they change, the runtime takes
// a checkpoint behind which nothing is emitted, closes all subtasks, and goes on from that
// checkpoint with the new splits.
type Rebalancing interface {
	// Changed waits until the splits have changed since the last Assign. It returns when ctx
	// ends. An error is a failure of the job, to which its restart strategy applies.
	Changed(ctx context.Context) error
	// Assign returns the splits from now on, and the position of each. It is called before
	// every attempt, when nothing is read and the results of the last checkpoint are published.
	// splits and next are those of that checkpoint, or what Splits returned. The order of the
	// result numbers the splits anew. The restart strategy applies to an error, even
	// before the first attempt, because Splits has succeeded by then.
	Assign(ctx context.Context, splits []Split, next []int64) (now []Split, from []int64, err error)
}
