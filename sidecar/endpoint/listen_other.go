//go:build !unix

package endpoint

import "net"

// listenPrivate binds a socket file. The system chooses the file's mode.
func listenPrivate(path string) (*net.UnixListener, error) {
	return net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
}
