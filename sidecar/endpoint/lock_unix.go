//go:build unix && !solaris && !aix

package endpoint

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lockFolder keeps other processes that use this package from creating a socket in the folder until
// unlock is called. It leaves no file behind, and the system releases the lock of a process that
// dies.
func lockFolder(folder string) (unlock func(), err error) {
	f, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	const tries, pause = 250, 20 * time.Millisecond
	for range tries {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			break
		}
		time.Sleep(pause)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		return nil, fmt.Errorf("the folder %s has been locked by another process for %v", folder, tries*pause)
	}
	// Any other error means that the file system has no locks. Then two servers that start on
	// one path at the same instant may collide. That is not a reason to refuse a server that
	// starts alone.
	return func() { f.Close() }, nil
}
