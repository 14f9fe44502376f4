package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Listen opens a listener on the endpoint.
//
// A socket file has mode 0600 from its first instant. A socket file that a killed process left
// behind is removed. If a process answers on the socket, or the file is not a socket, Listen leaves
// it alone and returns an error. Closing the listener removes the socket file, unless another file
// has taken its place.
func (e Endpoint) Listen() (net.Listener, error) {
	if e.Network != "unix" || strings.HasPrefix(e.Address, "@") {
		l, err := net.Listen(e.Network, e.Address)
		if err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", e, err)
		}
		return l, nil
	}
	l, err := listenFile(e.Address)
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", e, err)
	}
	return l, nil
}

func listenFile(path string) (net.Listener, error) {
	// Checking for a stale file, removing it and binding must be one step. Otherwise two
	// servers that start at once would remove each other's socket.
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := listenPrivate(path)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	info, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &socket{UnixListener: l, path: path, info: info}, nil
}

// removeStale removes the socket file at path if no process listens on it.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("a file that is not a socket is in the way (%s); remove it or choose another path", info.Mode())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		c.Close()
		return errors.New("another process listens on it; stop that one or choose another path")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether another process listens on it: %w", err)
	}
	return os.Remove(path)
}

// socket removes its file when it is closed, unless another file has taken its place.
type socket struct {
	*net.UnixListener
	path string
	info fs.FileInfo
	once sync.Once
}

func (s *socket) Close() error {
	s.once.Do(func() {
		// Remove the file before the close, so that clients do not find it.
		if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.info) {
			os.Remove(s.path)
		}
	})
	return s.UnixListener.Close()
}
