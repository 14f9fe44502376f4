//go:build unix && !linux

package endpoint

import (
	"net"
	"sync"
	"syscall"
)

var umask sync.Mutex

// listenPrivate binds a socket file of mode 0600. The umask belongs to the whole process: a file
// that another goroutine creates meanwhile is private too.
func listenPrivate(path string) (*net.UnixListener, error) {
	umask.Lock()
	defer umask.Unlock()
	defer syscall.Umask(syscall.Umask(0o177))
	return net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
}
