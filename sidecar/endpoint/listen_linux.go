package endpoint

import (
	"context"
	"net"
	"syscall"
)

// listenPrivate binds a socket file of mode 0600. Linux gives the file the mode of the socket that
// is bound to it. Setting that mode first leaves no instant at which others could connect. It also
// needs no umask, which belongs to the whole process.
func listenPrivate(path string) (*net.UnixListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		if err := c.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), 0o600) }); err != nil {
			return err
		}
		return failed
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}
