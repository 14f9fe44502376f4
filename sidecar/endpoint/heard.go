package endpoint

import (
	"net"
	"time"
)

// Hearing is what this system knows of whether the other side's still receives what is sent.
type Hearing int

const (
	// Unknown: this system does not tell.
	Unknown Hearing = iota
	// Heard: the other side's system acknowledges what is sent to it, whatever the process there
	// does.
	Heard
	// Unheard: something was sent, and nothing has been acknowledged for longer than that takes.
	Unheard
)

// Hears reports whether the other side's system has received what was written to c at that time, as
// far as this system tells. Of a Unix socket it always has. Linux tells of TCP connections; other
// systems, and connections of other kinds, tell nothing. It does not wait. It is safe for
// concurrent use.
func Hears(c net.Conn, since time.Time) Hearing {
	switch c := c.(type) {
	case *net.UnixConn:
		return Heard
	case *net.TCPConn:
		return hears(c, time.Since(since))
	}
	return Unknown
}
