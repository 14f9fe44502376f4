package file

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/fsx"
)

// lockName is the file in a sink's folder that the job that writes there locks. The job removes it
// at its end. A job that is killed leaves the file, but not the lock.
const lockName = ".lock"

// heldError says that another job writes into the folder. Each of them would take the other's parts
// for foreign ones, or for its own.
type heldError struct {
	dir string
	pid int
}

func (e *heldError) Error() string {
	holder := "another job"
	if e.pid != 0 {
		holder = fmt.Sprintf("the job of process %d", e.pid)
	}
	return fmt.Sprintf("file: %s writes into the folder %s; give this job a folder of its own, or wait for the other job to end", holder, e.dir)
}

// Verdict makes a heldError an async.Failure.
func (*heldError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// hold takes the lock of the folder. The committer keeps it until it is closed. On a system without
// locks, another job in the folder is not noticed.
func (c *committer) hold() error {
	if c.lock != nil {
		return nil
	}
	lock, err := c.fs.Lock(filepath.Join(c.dir, lockName))
	// The lock is lost if the job that had it has just removed the file.
	for err == nil && errors.Is(lock.Held(), fsx.ErrLockLost) {
		if err = lock.Close(); err == nil {
			lock, err = c.fs.Lock(filepath.Join(c.dir, lockName))
		}
	}
	if held, ok := errors.AsType[*fsx.LockedError](err); ok {
		return &heldError{c.dir, held.PID}
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("file: locking the folder %s: %w", c.dir, err)
	}
	c.lock = lock
	return nil
}

// letGo releases the lock.
func (c *committer) letGo() error {
	lock := c.lock
	if c.lock = nil; lock == nil {
		return nil
	}
	if lock.Held() == nil {
		_ = c.fs.Remove(filepath.Join(c.dir, lockName)) // a file that stays is not locked
	}
	return lock.Close()
}
