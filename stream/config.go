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
	// DefaultCheckpointTimeout is how long a checkpoint may take.
	DefaultCheckpointTimeout = 10 * time.Minute
	// MaxParallelism bounds the subtasks of one operator.
	MaxParallelism = 1024
)

// ErrStopped is what Run and Wait return after Stop: the job took a checkpoint,
// its results up to there are published, and it can be resumed. Test with errors.Is; an
// error that wraps it says more if the checkpoint could not be completed.
var ErrStopped = errors.New("stopped, resumable")

// ErrNoProgress is wrapped by the error of a job that failed in three restarts in a row, with no
// checkpoint completed between them, whatever its restart strategy allows. Failures of class
// Transport or Overload do not count, nor do checkpoints that took too long.
var ErrNoProgress = errors.New("no progress")

// Config is how a job runs. Its zero value is one subtask an operator, no
// periodic checkpoints, no restarts.
type Config struct {
	// Parallelism is the number of subtasks of each source, and so of what
	// follows it, unless an option says otherwise. Default 1, at most MaxParallelism.
	Parallelism int
	// Checkpoint says when state is kept, and where.
	Checkpoint CheckpointConfig
	// Restart is what follows a failure, once every subtask is open (no record is taken before
	// that): a job whose subtasks cannot be opened in the first place fails at once. Default:
	// exponential-delay if there are periodic checkpoints, else none.
	Restart restart.Config
	// Logger takes what happens to the job as a whole; nothing is logged a record. A handler that
	// panics fails nothing: the first time is told on standard error. Default: nothing is logged.
	Logger *slog.Logger
	// Observer is told of checkpoints, failures and restarts, for metrics. A panic of it fails the
	// job. Default: nobody is.
	Observer Observer
	// Tracer is told of spans by the asynchronous operators whose async.Config has none of its own.
	// Default: nobody is.
	Tracer trace.Tracer

	// RunID names a run that starts afresh. Default: a random one. A resumed run
	// keeps its name.
	RunID string
	// Identity are facts that must be the same when a run is resumed (the model,
	// the fields, the order). They are kept in every checkpoint.
	Identity []checkpoint.Property
	// Resume, if set, is the checkpoint to go on from. The job must have the
	// operators and the identity that it had; parallelism may differ.
	Resume *checkpoint.Snapshot
	// Attempt counts the starts of the run before this one. Default: one more than
	// Resume says, and 0 for a run that starts afresh.
	Attempt int
	// LastID is the highest id that any checkpoint of the run has; new ones are
	// numbered above it. Default: that of Resume.
	LastID int64
	// Previous, if set and Resume is not, is the last checkpoint of the finished run
	// that this one replaces: what that run published is replaced with the first
	// results of this one.
	Previous *checkpoint.Snapshot

	strategy restart.Strategy
}

// CheckpointConfig says when checkpoints are taken and how. One is taken at a
// time. Whatever is set, where the run begins is kept before anything is read, and one
// final checkpoint is taken at the end of the input.
type CheckpointConfig struct {
	// Interval from the start of one checkpoint to that of the next. Default 0: no
	// periodic checkpoints.
	Interval time.Duration
	// Timeout after which a checkpoint is given up. Default 10 min.
	Timeout time.Duration
	// MinPause is the least time between the end of one and the start of the next.
	MinPause time.Duration
	// TolerableFailures is how many checkpoints in a row may fail; one more fails
	// the job, which then restarts by its strategy. Checkpoints that a failing
	// task takes with it are not counted.
	TolerableFailures int
	// Store keeps the checkpoints. Default: in memory, for this run alone.
	Store CheckpointStore
}

// CheckpointStore keeps the checkpoints of one run. It is used from one
// goroutine at a time.
type CheckpointStore interface {
	// Write makes s durable, whole or not at all. When it returns nil, Newest
	// finds s, also after a crash. When it fails, s may be found or not. Ids grow
	// within a run. The first is 0, of the run's beginning: it is written before anything is read.
	Write(ctx context.Context, s *checkpoint.Snapshot) error
	// Newest returns the newest complete checkpoint of the run in progress. If there
	// is none, the error is checkpoint.ErrNoCheckpoint.
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
		wrong("checkpoint interval is %v, timeout %v, minimum pause %v; want none below 0", k.Interval, k.Timeout, k.MinPause)
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
		c.Observer = nobody{}
	}
	if c.Resume != nil && c.Previous != nil {
		wrong("both Resume and Previous are set; a run either goes on or replaces a finished one")
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
