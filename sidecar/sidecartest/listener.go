package sidecartest

import (
	"net"
	"sync"
	"sync/atomic"
)

// tracker numbers the connections of a listener and keeps track of them.
type tracker struct {
	net.Listener
	server *Server
}

// Accept implements net.Listener.
func (t *tracker) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s := t.server
	tc := &conn{Conn: c, server: s}
	tc.silent.Store(s.silent.Load())
	s.record.update(func() {
		s.record.status.Accepted++
		s.record.status.Connections++
		tc.addr = connAddr{c.RemoteAddr(), uint64(s.record.status.Accepted)}
	})
	s.conns.Store(tc.addr.number, tc)
	return tc, nil
}

// conn is a connection with a number.
type conn struct {
	net.Conn
	server *Server
	addr   connAddr
	once   sync.Once
	silent atomic.Bool
}

// Read implements net.Conn. Data that arrives on a silent connection is lost.
func (c *conn) Read(b []byte) (n int, err error) {
	for {
		n, err = c.Conn.Read(b)
		if err != nil || !c.silent.Load() {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if c.silent.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// connAddr carries the number to the handlers of the connection's calls.
type connAddr struct {
	net.Addr
	number uint64
}

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.addr }

// NetConn returns the wrapped connection. endpoint.PeerUser needs it.
func (c *conn) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.server.conns.Delete(c.addr.number)
		c.server.record.update(func() { c.server.record.status.Connections-- })
	})
	return c.Conn.Close()
}
