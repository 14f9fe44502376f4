package sidecar

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

const (
	// connectTimeout bounds one attempt to connect, up to the server's first frame, and so does
	// half of a record's timeout, but for leastConnect: calls wait for the connection meanwhile.
	connectTimeout = 10 * time.Second
	leastConnect   = time.Second
)

// keepalive lets the kernel find out that a peer behind TCP has vanished while nothing is asked of
// it, and keeps what lies between from forgetting the connection. No server counts these probes.
// HTTP/2's own pings most servers count, and end a connection that sends one more often than every
// five minutes; a call that is open is looked after otherwise (A73).
var keepalive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// maxStatus bounds a status, in bytes as it travels. A longer one than grpc's own bound, 16 MiB,
// breaks the connection with all its calls. A server that keeps to what it is told ends a call
// with a longer one without its words.
const maxStatus = 64 << 20

// buffers are grpc's, for messages. Its own pool has nothing between 32 KiB and 1 MiB, and clears
// a whole buffer for each message; most requests lie between.
var buffers = sync.OnceValue(func() mem.BufferPool {
	pool, err := mem.NewBinaryTieredBufferPool(8, 10, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24)
	if err != nil {
		return mem.DefaultBufferPool()
	}
	return pool
})

// dial makes a connection, which is not tried before it is used. cfg is resolved. w gets to know of
// what is beneath it.
//
// The resolver is grpc's passthrough: one dial an attempt, names looked up at each, so that
// the backoff is the configured one. No proxy is used.
func dial(cfg *Config, ep endpoint.Endpoint, w *wire, timeout time.Duration) (*grpc.ClientConn, error) {
	within := connectTimeout
	if timeout > 0 {
		within = max(min(timeout/2, connectTimeout), leastConnect)
	}
	connect := cfg.Dialer
	if connect == nil {
		connect = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{KeepAliveConfig: keepalive}).DialContext(ctx, ep.Network, address)
		}
	}
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = credentials.NewTLS(cfg.TLS)
	}
	opts := []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return connect(ctx, ep.Address) }),
		grpc.WithTransportCredentials(watched{creds, w}),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
		// The operator retries; what grpc would retry is silently limited by its buffer.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(cfg.MaxMessageSize),
			grpc.MaxCallSendMsgSize(cfg.MaxMessageSize),
		),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: cfg.Backoff.Base, MaxDelay: cfg.Backoff.Max,
				Multiplier: cfg.Backoff.Factor, Jitter: cfg.Backoff.Jitter,
			},
			MinConnectTimeout: within,
		}),
		grpc.WithUserAgent("tensorferry"),
		grpc.WithMaxHeaderListSize(maxStatus),
		experimental.WithBufferPool(buffers()),
	}
	if cfg.SharedMemory > 0 {
		opts = append(opts, grpc.WithStatsHandler(endings{}))
	}
	target := "passthrough:///" + ep.Address
	if ep.Network != "tcp" {
		target = "passthrough:///sidecar"
		opts = append(opts, grpc.WithAuthority("localhost"))
	}
	return grpc.NewClient(target, opts...)
}

// shortConn is a connection whose errors are short, whatever the server says (A66).
type shortConn struct{ grpc.ClientConnInterface }

// Invoke implements grpc.ClientConnInterface.
func (c shortConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	err := c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	if _, ok := errors.AsType[*async.PanicError](err); ok {
		return err // of a ready connection; what it is must not be lost
	}
	return oip.Shorten(err)
}
