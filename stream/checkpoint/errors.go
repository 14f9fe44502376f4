package checkpoint

import (
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/internal/fsx"
)

// ErrLockLost is wrapped by the error of a Write that found that the folder's lock was removed or
// replaced.
var ErrLockLost = fsx.ErrLockLost

// ErrNoCheckpoint is wrapped by the error of From if the run does not have the checkpoint that was
// asked for. A store of package stream returns it if the run has no checkpoint.
var ErrNoCheckpoint = errors.New("checkpoint: there is no such checkpoint")

// LockedError says that another process has locked the checkpoint folder.
type LockedError struct {
	Dir string
	// PID is the id of that process; 0 if it is not known.
	PID int
}

func (e *LockedError) Error() string {
	holder := "another process"
	if e.PID != 0 {
		holder = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("checkpoint: the folder %s is in use by %s; wait for it to end, or stop it", e.Dir, holder)
}

// UnfinishedError says that the folder holds a run that did not end, which a new run would lose. A
// user must resume it or discard it.
type UnfinishedError struct {
	Dir, Run string
	// Checkpoint is the id of the run's newest checkpoint. It is 0 if the run has none, or only
	// that of its beginning.
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
	// Owner is the job to which the folder belongs. Job is the job that was to use it.
	Owner, Job string
}

func (e *OtherJobError) Error() string {
	return fmt.Sprintf("checkpoint: the folder %s belongs to the job %q; give the job %q a folder of its own", e.Dir, e.Owner, e.Job)
}

// GoneError says that the newest checkpoint of a run was completed, and that its file is gone. It
// wraps ErrCorrupt.
type GoneError struct {
	// Path is the checkpoint's file.
	Path string
	// All reports that the run has no other whole checkpoint.
	All bool
}

func (e *GoneError) Error() string {
	if e.All {
		return fmt.Sprintf("checkpoint: %s was completed and is gone, and so are all others of the run", e.Path)
	}
	return fmt.Sprintf("checkpoint: %s was completed and is gone", e.Path)
}

func (e *GoneError) Unwrap() error { return ErrCorrupt }
