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

// wire is what a channel knows of its connections beneath grpc, which keeps it to itself: when
// something arrived last, why the other side lets a connection go, and why one could not be
// trusted. There is one connection, and while a server lets one go, a second.
type wire struct {
	mu       sync.Mutex
	lines    []*line // that are open, the oldest first
	last     *line   // the newest that there was, and
	before   *line   // the one before it
	distrust error   // why the newest handshake failed, if another would fail too

	patience patience
	hears    func(net.Conn, time.Time) endpoint.Hearing // nil: endpoint.Hears
}

// watched are credentials whose connections a wire knows of.
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

// open are the lines that are open now.
func (w *wire) open() []*line {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.lines)
}

// answered says that a call has its answer. A connection on which that happens is a well one.
func (w *wire) answered() {
	if w == nil || w.patience.vain.Load() == 0 {
		return
	}
	w.mu.Lock()
	made := w.last.made
	w.mu.Unlock()
	w.patience.well(time.Since(made))
}

// letGo says how the other side has let the newest connection go on which anything was said: in
// words, empty if it did not; and whether as a server does that is well, and has served on it.
func (w *wire) letGo() (words string, gracefully bool) {
	if w == nil {
		return "", false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	words, gracefully, fresh := w.last.goAway()
	if fresh { // it has come to nothing yet
		words, gracefully, _ = w.before.goAway()
	}
	return words, gracefully
}

// distrusted is why the last connection could not be trusted, if that is why there is none.
func (w *wire) distrusted() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.distrust
}
