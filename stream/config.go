package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	guards "github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
	"github.com/tensorferry/tensorferry/trace"
)

// Defaults and bounds of Config.
const (
	// DefaultCheckpointTimeout is the default of CheckpointConfig.Timeout.
	DefaultCheckpointTimeout = 10 * time.Minute
	// MaxParallelism is the largest number of subtasks of one operator.
	MaxParallelism = 1024
)

// ErrStopped is what Run and Wait return after Stop. The job took a checkpoint, its results up to
// there are published, and it can be resumed. Test for it with errors.Is: if the checkpoint could
// not be completed, the error wraps ErrStopped and says more.
var ErrStopped = errors.New("stopped, resumable")

// ErrNoProgress is wrapped by the error of a job that failed in three restarts in a row, with no
// checkpoint completed between them. Such a job ends, whatever its restart strategy allows.
// Failures of class Transport or Overload do not count, and neither do checkpoints that took too
// long.
var ErrNoProgress = errors.New("no progress")

// Config says how a job runs. With its zero value every operator has one subtask, there are no
// periodic checkpoints, and a failure ends the job.
type Config struct {
	// Parallelism is the number of subtasks of each source, and so of the operators that follow it,
	// unless the option Parallel says otherwise. Default: 1; at most MaxParallelism.
	Parallelism int
	// Checkpoint says when state is kept, and where.
	Checkpoint CheckpointConfig
	// Restart is for failures after all subtasks have opened. A job whose subtasks cannot be opened
	// in its first attempt fails at once: no record was read. Default:
	// exponential-delay if there are periodic checkpoints, and otherwise none.
	Restart restart.Config
	// Logger logs what happens to the job as a whole, and never a single record. A handler that
	// panics does not fail the job: its first panic is written to standard error. Default: nothing
	// is logged.
	Logger *slog.Logger
	// Observer is notified of checkpoints, failures and restarts, for metrics. If it panics, the
	// job fails. Default: none.
	Observer Observer
	// Tracer records the spans of the asynchronous operators whose async.Config has no Tracer.
	// Default: no spans are recorded.
	Tracer trace.Tracer

	// RunID names a run that starts afresh. A resumed run keeps its name. Default: a random name.
	RunID string
	// Identity holds properties that must be the same when a run is resumed, such as the model, the
	// fields and the order. Every checkpoint keeps them.
	Identity []checkpoint.Property
	// Resume is the checkpoint to go on from, or nil to start afresh. The job must have the same
	// operators and identity as the job that wrote it. Its parallelism may differ.
	Resume *checkpoint.Snapshot
	// Attempt counts the starts of the run before this one. Default: one more than that of Resume,
	// or 0 for a run that starts afresh.
	Attempt int
	// LastID is the highest id of any checkpoint of the run. New ones have higher ids. Default: the
	// id of Resume.
	LastID int64
	// Previous is the last checkpoint of a finished run that this run replaces, or nil. The first
	// results of this run replace what that run published. It must not be set together with Resume.
	Previous *checkpoint.Snapshot

	strategy restart.Strategy
}

// CheckpointConfig says when and how checkpoints are taken. One is taken at a time. With any
// setting, a first checkpoint keeps where the run begins, before anything is read, and a final one
// is taken at the end of the input.
type CheckpointConfig struct {
	// Interval is the time from the start of one checkpoint to the start of the next. Default: 0,
	// no periodic checkpoints.
	Interval time.Duration
	// Timeout is how long a checkpoint may wait for the subtasks before it is given up. Default:
	// 10 min.
	Timeout time.Duration
	// MinPause is the least time between the end of one checkpoint and the start of the next.
	// Default: 0.
	MinPause time.Duration
	// TolerableFailures is how many checkpoints in a row may fail. One more fails the job, which
	// then restarts by its strategy. Checkpoints that end because a task failed are not counted.
	// Default: 0.
	TolerableFailures int
	// Store keeps the checkpoints. Default: a store in memory, for this run alone (NewMemoryStore).
	Store CheckpointStore
}

// CheckpointStore keeps the checkpoints of one run. A job calls it from one goroutine at a time.
type CheckpointStore interface {
	// Write makes s durable, whole or not at all. If it returns nil, Newest must find s, also after
	// a crash. If it fails, Newest may find s or not. Ids grow within a run. The first is 0, for
	// the run's beginning, and is written before anything is read.
	Write(ctx context.Context, s *checkpoint.Snapshot) error
	// Newest returns the newest complete checkpoint of the run in progress. If there is none, it
	// returns nil, or the error checkpoint.ErrNoCheckpoint.
	Newest(ctx context.Context) (*checkpoint.Snapshot, error)
}

func (c Config) resolve() (Config, error) {
	var errs []error
	wrong := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if c.Parallelism == 0 {
		c.Parallelism = 1
	}
	if c.Parallelism < 0 || c.Parallelism > MaxParallelism {
		wrong("parallelism is %d; want 1 to %d", c.Parallelism, MaxParallelism)
	}
	k := &c.Checkpoint
	if k.Interval < 0 || k.Timeout < 0 || k.MinPause < 0 {
		wrong("checkpoint interval is %v, timeout %v, minimum pause %v; want 0 or more", k.Interval, k.Timeout, k.MinPause)
	}
	if k.TolerableFailures < 0 {
		wrong("tolerable checkpoint failures are %d; want 0 or more", k.TolerableFailures)
	}
	if k.Timeout == 0 {
		k.Timeout = DefaultCheckpointTimeout
	}
	if k.Store == nil {
		k.Store = NewMemoryStore()
	}
	var err error
	if c.strategy, err = restart.New(c.Restart, k.Interval > 0); err != nil {
		errs = append(errs, err)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = guards.Logger(c.Logger)
	if c.Observer == nil {
		c.Observer = noObserver{}
	}
	if c.Resume != nil && c.Previous != nil {
		wrong("both Resume and Previous are set; a run goes on or replaces a finished one; set one of them")
	}
	if c.Attempt < 0 || c.LastID < 0 {
		wrong("attempt is %d, last checkpoint id %d; want 0 or more", c.Attempt, c.LastID)
	}
	if c.Resume != nil {
		c.LastID = max(c.LastID, c.Resume.ID)
		if c.Attempt == 0 {
			c.Attempt = c.Resume.Attempt + 1
		}
	}
	return c, errors.Join(errs...)
}
