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
	// connectTimeout bounds one attempt to connect, up to the server's first frame. Calls wait
	// for the connection meanwhile, so half of a record's timeout is a bound too, but never
	// less than leastConnect.
	connectTimeout = 10 * time.Second
	leastConnect   = time.Second
)

// keepalive has the kernel notice that a TCP peer has vanished while no call is open. It also keeps
// routers on the way from dropping an idle connection. Servers do not count these probes. Most
// servers do count HTTP/2's own pings, and end a connection that sends one more often than every
// five minutes. Open calls are watched in another way (A73).
var keepalive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// maxStatus bounds a status, in bytes on the wire. A status that exceeds the bound breaks the
// connection and all its calls; grpc's own bound is 16 MiB. A server that respects the bound ends
// the call without its message instead.
const maxStatus = 64 << 20

// buffers is the buffer pool for grpc's messages. grpc's own pool has no sizes between 32 KiB and 1
// MiB, where most requests lie, and clears a whole buffer for each message.
var buffers = sync.OnceValue(func() mem.BufferPool {
	pool, err := mem.NewBinaryTieredBufferPool(8, 10, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24)
	if err != nil {
		return mem.DefaultBufferPool()
	}
	return pool
})

// dial makes a connection that connects at its first use. cfg is resolved. w records what happens
// on the connections beneath it.
//
// The resolver is grpc's passthrough: each attempt dials once and looks the name up again, so that
// the configured backoff applies. No proxy is used.
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
		// The operator retries. grpc's own retries would be limited by its buffer, without
		// notice.
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

// shortConn is a connection whose errors are short, however long the server's message is (A66).
type shortConn struct{ grpc.ClientConnInterface }

// Invoke implements grpc.ClientConnInterface.
func (c shortConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	err := c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	if _, ok := errors.AsType[*async.PanicError](err); ok {
		return err // from a ready connection; Shorten would hide its type
	}
	return oip.Shorten(err)
}
