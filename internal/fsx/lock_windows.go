package fsx

import (
	"math"
	"os"

	"golang.org/x/sys/windows"
)

// lockFile locks one byte far behind the file's end, so that the process id at its start can still
// be read. The system releases the lock when the process ends.
func lockFile(f *os.File) (held bool, err error) {
	err = windows.LockFileEx(windows.Handle(f.Fd()),
		windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0,
		&windows.Overlapped{OffsetHigh: math.MaxInt32})
	if err == windows.ERROR_LOCK_VIOLATION {
		return true, nil
	}
	return false, err
}
