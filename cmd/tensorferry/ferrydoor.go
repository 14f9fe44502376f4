package main

import (
	"context"
	"log/slog"
	"net"
	"sync"

	"github.com/tensorferry/tensorferry/ferry"
	"github.com/tensorferry/tensorferry/sidecar"
)

// Bounds of a sidecar's own ferry. docs/ferry.md says how much memory they allow.
const (
	ferryConnections = 16
	ferryBytes       = 16 << 20
)

// pipes is a listener whose connections stay in this process.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	over  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), over: make(chan struct{})} }

// Accept implements net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.over:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.over) })
	return nil
}

// Addr implements net.Listener.
func (p *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "sidecar" }

func (p *pipes) dial(ctx context.Context, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.over:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// sidecarFerry makes the ferry of a sidecar. Its clients come to the sidecar's own sockets, and it
// reaches the sidecar through p.
// model is the only model that the sidecar serves, or *.
func sidecarFerry(model string, connections int, p *pipes, logger *slog.Logger) (*ferry.Server, error) {
	return ferry.New(ferry.Config{
		Allow:          []ferry.Target{{Model: model, Config: sidecar.Config{Endpoint: p.Addr().String(), Dialer: p.dial}}},
		MaxConnections: connections, MaxBytes: ferryBytes, MaxFrame: ferryBytes, Logger: logger,
	})
}
