package server

import "net"

// AsPeer makes every caller on a Unix socket that user, until restore is called.
func AsPeer(user int, known bool) (restore func()) {
	before := peerUser
	peerUser = func(net.Conn) (int, bool) { return user, known }
	return func() { peerUser = before }
}
