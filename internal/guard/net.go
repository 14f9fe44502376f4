package guard

import (
	"errors"
	"net"
	"time"
)

// Conn returns c with methods whose panics become errors, and are passed to broke. of names c in
// errors. The connections of package net are returned unchanged.
func Conn(of string, c net.Conn, broke func(error)) net.Conn {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn, *conn:
		return c
	}
	return &conn{c, of, broke}
}

// Listener returns l with an Accept whose panic becomes an error, and with connections guarded by
// Conn.
func Listener(l net.Listener, broke func(error)) net.Listener { return listener{l, broke} }

type listener struct {
	net.Listener
	broke func(error)
}

func (l listener) Accept() (c net.Conn, err error) {
	err = Apart("Accept of the listener", func() (err error) {
		if c, err = l.Listener.Accept(); err == nil && c == nil {
			err = errors.New("the listener's Accept returned neither a connection nor an error")
		}
		return err
	})
	if err != nil {
		if p, ok := err.(*Panic); ok {
			l.broke(p)
		}
		return nil, err
	}
	return Conn("the listener's connection", c, l.broke), nil
}

func (l listener) Close() error { return Apart("Close of the listener", l.Listener.Close) }

// conn is a connection of a user's own type.
type conn struct {
	net.Conn
	of    string
	broke func(error)
}

// NetConn returns the user's connection, for questions to the operating system about it.
func (c *conn) NetConn() net.Conn { return c.Conn }

// Other packages call Read and Write on their own goroutines, which must not be ended.

func (c *conn) Read(p []byte) (n int, err error) {
	err = c.call("Read", func() (err error) {
		n, err = c.Conn.Read(p)
		return err
	})
	return n, err
}

func (c *conn) Write(p []byte) (n int, err error) {
	err = c.call("Write", func() (err error) {
		n, err = c.Conn.Write(p)
		return err
	})
	return n, err
}

func (c *conn) call(method string, f func() error) error {
	err := Apart(method+" of "+c.of, f)
	if p, ok := err.(*Panic); ok {
		c.broke(p)
	}
	return err
}

func (c *conn) Close() error { return c.call("Close", c.Conn.Close) }

func (c *conn) SetDeadline(t time.Time) error {
	return c.call("SetDeadline", func() error { return c.Conn.SetDeadline(t) })
}

func (c *conn) SetReadDeadline(t time.Time) error {
	return c.call("SetReadDeadline", func() error { return c.Conn.SetReadDeadline(t) })
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.call("SetWriteDeadline", func() error { return c.Conn.SetWriteDeadline(t) })
}

func (c *conn) LocalAddr() net.Addr { return c.address("LocalAddr", c.Conn.LocalAddr) }

func (c *conn) RemoteAddr() net.Addr { return c.address("RemoteAddr", c.Conn.RemoteAddr) }

// address returns the connection's address if the methods of the address work.
func (c *conn) address(method string, f func() net.Addr) net.Addr {
	var known net.Addr
	err := c.call(method, func() error {
		if known = f(); known != nil {
			_, _ = known.Network(), known.String()
		}
		return nil
	})
	if err != nil || known == nil {
		return &net.UnixAddr{Net: "unknown"}
	}
	return known
}
