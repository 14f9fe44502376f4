package sidecar

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/tensorferry/tensorferry/internal/brief"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
)

// wire is what a channel knows about its connections beneath grpc, which does not report it: when
// data last arrived, why the other side let a connection go, and why a connection could not be
// trusted. There is one connection, and a second one while the server lets the first go.
type wire struct {
	mu       sync.Mutex
	lines    []*line // open connections, oldest first
	last     *line   // the newest, open or closed
	before   *line   // the one before last
	distrust error   // why the newest handshake failed, if another would fail too

	patience patience
	hears    func(net.Conn, time.Time) endpoint.Hearing // nil: endpoint.Hears
}

// watched wraps credentials so that a wire knows of their connections.
type watched struct {
	credentials.TransportCredentials
	wire *wire
}

// ClientHandshake implements credentials.TransportCredentials.
func (w watched) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, raw)
	w.wire.mu.Lock()
	defer w.wire.mu.Unlock()
	if err != nil {
		if w.wire.distrust = nil; distrusts(err) {
			w.wire.distrust = brief.Error(err)
		}
		return nil, nil, err
	}
	l := newLine(c, raw, w.wire)
	w.wire.lines, w.wire.before, w.wire.last = append(w.wire.lines, l), w.wire.last, l
	return l, info, nil
}

// Clone implements credentials.TransportCredentials.
func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.wire}
}

// open returns the lines that are open now.
func (w *wire) open() []*line {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.lines)
}

// answered notes that a call has its answer, which shows that the newest connection works.
func (w *wire) answered() {
	if w == nil || w.patience.vain.Load() == 0 {
		return
	}
	w.mu.Lock()
	made := w.last.made
	w.mu.Unlock()
	w.patience.well(time.Since(made))
}

// letGo describes how the other side let the newest connection go. words is empty if it did not.
// gracefully says that the server is healthy and has answered calls on that connection. A
// connection that has had neither an answer nor a GOAWAY is passed over.
func (w *wire) letGo() (words string, gracefully bool) {
	if w == nil {
		return "", false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	words, gracefully, fresh := w.last.goAway()
	if fresh { // neither an answer nor a GOAWAY has arrived on it yet
		words, gracefully, _ = w.before.goAway()
	}
	return words, gracefully
}

// distrusted returns why the newest connection could not be trusted; nil if that was not the
// problem.
func (w *wire) distrusted() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.distrust
}
