//go:build !unix

package endpoint

import "net"

// listenPrivate binds a socket file. The file's mode is the system's affair.
func listenPrivate(path string) (*net.UnixListener, error) {
	return net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
}
