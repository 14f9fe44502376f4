//go:build unix && !solaris && !aix

package fsx

import (
	"os"
	"syscall"
)

// lockFile takes an flock, which the kernel releases when the process ends, also by kill -9. held
// says that another process has it.
func lockFile(f *os.File) (held bool, err error) {
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EWOULDBLOCK:
			return true, nil
		}
		return false, err
	}
}
