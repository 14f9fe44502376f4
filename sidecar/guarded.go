package sidecar

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// grpc calls the user's connection and dialer on its own goroutines, where nothing else can catch a
// panic. The wrappers here turn a panic into an error for grpc, and pass it to broke.

// guardedConn guards a ready connection of the user's.
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

// guardedDialer guards dial and the connections that it returns.
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
		if err != nil {
			return nil, err
		}
		return guard.Conn("the Dialer's connection", conn, broke), nil
	}
}
