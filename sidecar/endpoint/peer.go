package endpoint

import "net"

// PeerUser returns the user whose process is at the other end of a connection over a Unix socket,
// as the system vouches for it. ok is false for any other connection, on systems other than Linux,
// and for users of other namespaces who have no number in this one (nobody, 65534). A connection
// that wraps another one is seen through if it has a method NetConn, as that of crypto/tls has.
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
