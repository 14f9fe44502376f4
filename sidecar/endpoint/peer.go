package endpoint

import "net"

// PeerUser returns the user whose process is at the other end of a connection over a Unix socket.
// The operating system vouches for it. ok is false for any other connection, on systems other than
// Linux, and for users of other namespaces that have no number in this one (nobody, 65534). If c
// wraps another connection and has a method NetConn, as the connections of crypto/tls have,
// PeerUser looks at the wrapped connection.
func PeerUser(c net.Conn) (uid int, ok bool) {
	for {
		if u, ok := c.(*net.UnixConn); ok {
			return peerUser(u)
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return 0, false
		}
		c = w.NetConn()
	}
}
