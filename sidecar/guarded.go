package sidecar

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// What users give for the connection is called by grpc, on goroutines that nobody could guard otherwise. What panics
// there is an error for grpc, and goes to broke.

// guardedConn is a ready connection of the user's, with what was given to its maker.
type guardedConn struct {
	grpc.ClientConnInterface
	broke func(error)
}

func (c guardedConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	err := guard.Apart("Invoke of the connection", func() error { return c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...) })
	if p, ok := errors.AsType[*async.PanicError](err); ok {
		c.broke(p)
	}
	return err
}

type dialer = func(ctx context.Context, address string) (net.Conn, error)

// guardedDialer is dial with connections that are guarded too.
func guardedDialer(dial dialer, broke func(error)) dialer {
	if dial == nil {
		return nil
	}
	return func(ctx context.Context, address string) (conn net.Conn, err error) {
		err = guard.Apart("the Dialer", func() (err error) {
			conn, err = dial(ctx, address)
			return err
		})
		if p, ok := errors.AsType[*async.PanicError](err); ok {
			broke(p)
		}
		if err == nil && conn == nil {
			err = errors.New("the Dialer returned neither a connection nor an error")
		}
		switch conn.(type) {
		case *net.TCPConn, *net.UnixConn:
			return conn, err
		}
		if err != nil {
			return nil, err
		}
		return &guardedNet{conn, broke}, nil
	}
}

// guardedNet is a connection of a user's own type.
type guardedNet struct {
	net.Conn
	broke func(error)
}

// rescue, deferred, turns a panic of a method into *err.
func (c *guardedNet) rescue(method string, returned *bool, err *error) {
	v := recover()
	if *returned {
		return
	}
	where := method + " of the Dialer's connection"
	if *err = guard.Exited(where); v != nil {
		*err = guard.Caught(where, v)
	}
	c.broke(*err)
}

func (c *guardedNet) Read(p []byte) (n int, err error) {
	returned := false
	defer c.rescue("Read", &returned, &err)
	n, err = c.Conn.Read(p)
	returned = true
	return n, guard.Error("Read of the Dialer's connection", err)
}

func (c *guardedNet) Write(p []byte) (n int, err error) {
	returned := false
	defer c.rescue("Write", &returned, &err)
	n, err = c.Conn.Write(p)
	returned = true
	return n, guard.Error("Write of the Dialer's connection", err)
}

func (c *guardedNet) call(method string, f func() error) (err error) {
	if err = guard.Apart(method+" of the Dialer's connection", f); err != nil {
		if p, ok := errors.AsType[*async.PanicError](err); ok {
			c.broke(p)
		}
	}
	return err
}

func (c *guardedNet) Close() error { return c.call("Close", c.Conn.Close) }

func (c *guardedNet) SetDeadline(t time.Time) error {
	return c.call("SetDeadline", func() error { return c.Conn.SetDeadline(t) })
}

func (c *guardedNet) SetReadDeadline(t time.Time) error {
	return c.call("SetReadDeadline", func() error { return c.Conn.SetReadDeadline(t) })
}

func (c *guardedNet) SetWriteDeadline(t time.Time) error {
	return c.call("SetWriteDeadline", func() error { return c.Conn.SetWriteDeadline(t) })
}

func (c *guardedNet) LocalAddr() net.Addr { return c.address("LocalAddr", c.Conn.LocalAddr) }

func (c *guardedNet) RemoteAddr() net.Addr { return c.address("RemoteAddr", c.Conn.RemoteAddr) }

// address returns one that can be used, whatever the user's is.
func (c *guardedNet) address(method string, f func() net.Addr) net.Addr {
	known := &net.UnixAddr{Net: "unknown"}
	err := c.call(method, func() error {
		if a := f(); a != nil {
			known = &net.UnixAddr{Net: a.Network(), Name: a.String()}
		}
		return nil
	})
	if err != nil {
		return &net.UnixAddr{Net: "unknown"}
	}
	return known
}
