package checkpoint

import (
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/internal/fsx"
)

// ErrLockLost is wrapped by the error of a Write that found the folder's lock removed or replaced.
var ErrLockLost = fsx.ErrLockLost

// ErrNoCheckpoint: the run does not have the checkpoint that was asked for.
var ErrNoCheckpoint = errors.New("checkpoint: there is no such checkpoint")

// LockedError says that another process holds the checkpoint folder.
type LockedError struct {
	Dir string
	// PID is the holder's process id; 0 if it is not known.
	PID int
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("checkpoint: the folder %s is in use by %s; wait for it to end, or stop it", e.Dir, who)
}

// UnfinishedError says that the folder holds a run that did not end, so that a
// new one would lose it. It must be resumed, or discarded.
type UnfinishedError struct {
	Dir, Run string
	// Checkpoint is the id of its newest checkpoint; 0 if it has none but that of its beginning.
	Checkpoint int64
}

func (e *UnfinishedError) Error() string {
	at := "with no checkpoint yet"
	if e.Checkpoint != 0 {
		at = fmt.Sprintf("at checkpoint %d", e.Checkpoint)
	}
	return fmt.Sprintf("checkpoint: the folder %s holds an unfinished run (%s, %s); resume it or discard it", e.Dir, e.Run, at)
}

// OtherJobError says that the folder belongs to another job.
type OtherJobError struct {
	Dir string
	// Owner is the job that the folder belongs to, Job the one that wants it.
	Owner, Job string
}

func (e *OtherJobError) Error() string {
	return fmt.Sprintf("checkpoint: the folder %s belongs to the job %q; give the job %q a folder of its own", e.Dir, e.Owner, e.Job)
}

// GoneError says that the newest checkpoint of a run was completed and is not there any more. It
// wraps ErrCorrupt.
type GoneError struct {
	// Path is the checkpoint's file.
	Path string
	// All: the run has no other checkpoint that is whole.
	All bool
}

func (e *GoneError) Error() string {
	if e.All {
		return fmt.Sprintf("checkpoint: %s was completed and is gone, and so are all others of the run", e.Path)
	}
	return fmt.Sprintf("checkpoint: %s was completed and is gone", e.Path)
}

func (e *GoneError) Unwrap() error { return ErrCorrupt }
