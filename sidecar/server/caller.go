package server

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/stats"

	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/trace"
)

// watcher numbers the connections, so that the batcher can let callers take turns. It also sees
// when an answer was written. It is grpc's stats.Handler.
type watcher struct {
	log  *slog.Logger
	last atomic.Uint64
	open atomic.Int64
}

type connKey struct{}

type callKey struct{}

// call holds what is measured of one RPC, and the memory of its request. The handler fills it in.
type call struct {
	began, ended time.Time
	metrics      *modelMetrics // nil: not an inference
	span         trace.Span    // nil: not sampled

	mu       sync.Mutex
	received *share // the memory that its request holds; nil: none
	over     bool
}

// hold keeps the share of a request that was received, and releases the share of the one before.
func (c *call) hold(h *share) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received.release()
	if c.received = h; c.over { // a stream's reader may outlive the stream
		h.release()
	}
}

// take hands the share of the request over to the caller of take.
func (c *call) take() (h *share) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, c.received = c.received, nil
	return h
}

// finish releases the share, and all shares that are still to come.
func (c *call) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.received.release()
}

// connection returns the number of the connection that a call came over.
func connection(ctx context.Context) uint64 {
	n, _ := ctx.Value(connKey{}).(uint64)
	return n
}

func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

// TagConn implements stats.Handler.
func (w *watcher) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, connKey{}, w.last.Add(1))
}

// HandleConn implements stats.Handler.
func (w *watcher) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		w.open.Add(1)
	case *stats.ConnEnd:
		w.open.Add(-1)
	}
}

// TagRPC implements stats.Handler.
func (w *watcher) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, callKey{}, &call{began: time.Now()})
}

// HandleRPC implements stats.Handler.
func (w *watcher) HandleRPC(ctx context.Context, s stats.RPCStats) {
	end, ok := s.(*stats.End)
	if !ok {
		return
	}
	c := callOf(ctx)
	if c.span != nil {
		err := guard.Apart("End of a span", func() error {
			c.endSpan(end.EndTime, end.Error)
			return nil
		})
		if err != nil {
			w.log.Error("the tracer failed", "error", err) // the call was answered already
		}
	}
	if c.metrics != nil {
		now := time.Now()
		c.metrics.total.Observe(now.Sub(c.began).Seconds())
		if !c.ended.IsZero() {
			c.metrics.send.Observe(now.Sub(c.ended).Seconds())
		}
	}
}
