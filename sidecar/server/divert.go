package server

import (
	"errors"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tensorferry/tensorferry/internal/guard"
)

// divert looks at the first byte of each connection before gRPC does. HTTP/2 begins with a P.
type divert struct {
	credentials.TransportCredentials
	to func(net.Conn)
}

func newDivert(to func(net.Conn)) divert { return divert{insecure.NewCredentials(), to} }

// ServerHandshake implements credentials.TransportCredentials. gRPC calls it on a goroutine of the
// connection, with a deadline.
func (d divert) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	first := make([]byte, 1)
	if _, err := c.Read(first); err != nil {
		return nil, nil, err
	}
	begun := &begunConn{Conn: c, first: first}
	if first[0] == prefaceText[0] {
		return begun, nil, nil
	}
	_ = c.SetDeadline(time.Time{}) // that of the handshake
	if c, ok := c.(*conn); ok {
		c.diverted.Store(true)
	}
	if err := guard.Apart("Divert", func() error { d.to(begun); return nil }); err != nil {
		c.Close()
		return nil, nil, err
	}
	return nil, nil, credentials.ErrConnDispatched
}

// Clone implements credentials.TransportCredentials.
func (d divert) Clone() credentials.TransportCredentials { return d }

// begunConn is a connection whose first byte was read already.
type begunConn struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.first) > 0 && len(p) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// SetDeadline implements net.Conn.
func (c *begunConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// NetConn returns the connection below, for those who ask what it is.
func (c *begunConn) NetConn() net.Conn { return c.Conn }
