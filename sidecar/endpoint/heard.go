package endpoint

import (
	"net"
	"time"
)

// Hearing is what this operating system knows about whether the other side's operating system still
// receives what is sent to it.
type Hearing int

// The values of Hearing.
const (
	// Unknown: this system does not know.
	Unknown Hearing = iota
	// Heard: the other side's system acknowledges what is sent to it, whatever the process there
	// does.
	Heard
	// Unheard: something was sent, and its acknowledgement is overdue.
	Unheard
)

// Hears reports whether the other side's system has received what was written to c at the time
// since, as far as this system knows. For a Unix socket the answer is always Heard. Only Linux
// knows for TCP connections. For other systems and other kinds of connection the answer is Unknown.
// Hears does not wait. It is safe for concurrent use.
func Hears(c net.Conn, since time.Time) Hearing {
	switch c := c.(type) {
	case *net.UnixConn:
		return Heard
	case *net.TCPConn:
		return hears(c, time.Since(since))
	}
	return Unknown
}
