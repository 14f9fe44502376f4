package sidecar

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/tensor"
)

// Defaults of Config. Sizes are in bytes.
const (
	DefaultMaxBatch        = 256
	DefaultWindow          = 4
	DefaultMaxBytes        = 16 << 20
	DefaultMaxMessageSize  = 64 << 20
	DefaultSharedMemoryMin = 64 << 10
)

// Config says how the connections to a sidecar work. Zero fields take the documented defaults.
// Endpoint (or Conn) and Model must be set. Each subtask has a channel: its own connection and the
// requests on it.
type Config struct {
	// Endpoint is where the sidecar listens: unix:///abs/path.sock, unix-abstract:name, host:port
	// or [v6]:port. With Dialer or Conn it may be any name, which messages show.
	Endpoint string
	// Model is the model's name on the server, and Version its version. With an empty version the
	// server chooses, and answers of any version are accepted.
	Model, Version string
	// Signature states the model's inputs and outputs, for a server that does not describe them.
	// Nil: the server must describe them. Only Inputs, Outputs, Batched and MaxBatch are used. What
	// the server does describe is used too, and must agree with Signature in the names, datatypes
	// and shapes of tensors.
	Signature *tensor.Signature
	// MaxBatch is the largest number of rows in a request. Default 256. The model's own bound, and
	// the operator's capacity divided by Window, are bounds too.
	MaxBatch int
	// Window is how many requests a channel keeps in flight. Default 4.
	Window int
	// MaxBytes is the largest size of a request's tensor data, in bytes. A larger row is sent
	// alone. Default 16 MiB.
	MaxBytes int
	// MaxMessageSize is the largest size of a message in either direction, in bytes. Default 64
	// MiB. The server has its own bound, which the client finds out. A channel holds at most Window
	// times MaxMessageSize bytes of answers, in addition to the results that wait in the operator
	// (A78).
	MaxMessageSize int
	// SharedMemory is how many bytes of shared memory a channel reserves for tensors, in 2 * Window
	// equal slots. 0: none. The smallest size has slots of 4 KiB. A request that has a slot sends
	// only the places of its tensors in it, and receives outputs of a fixed size the same way.
	//
	// The server must be on this machine (a Unix socket or a loopback address, with no proxy in
	// between), run as the same user, and have Triton's calls for system shared memory, from Triton
	// 24.09 on. If shared memory cannot be used, one log line says so and tensors travel in the
	// requests. If no slot is free, tensors travel in the request too. Conn cannot be set together
	// with SharedMemory.
	//
	// A request with a slot is never cancelled, because the server may write to the slot until it
	// is done. The request parameter "timeout" says how long the request may wait in the server's
	// queue.
	SharedMemory int
	// SharedMemoryMin is the least size of all inputs of a request together, in bytes, for which
	// they go to shared memory. The same least size applies to the outputs together. Default 64
	// KiB.
	SharedMemoryMin int
	// Backoff sets the delays between attempts to connect.
	Backoff Backoff
	// TLS is the configuration for TCP endpoints. Nil: no TLS. If it holds a certificate, the
	// client authenticates with it (mutual TLS).
	TLS *tls.Config
	// Dialer replaces the way to connect. The address is the endpoint's: a path, @name or
	// host:port, or Endpoint itself if it has none of the known forms. For connections that are
	// not a *net.TCPConn or *net.UnixConn the client cannot tell whether the other side's
	// operating system is still there. Such a connection is taken for lost if nothing arrives
	// on it while calls are in progress, not even the answer to a question (A73). A panic in
	// Dialer, or in a method of its connections, fails the operator (A69).
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// Conn is a ready connection that is used instead of the channel's own. All subtasks share it,
	// and it is not closed. Set TLS, the dialer, the reconnect backoff and the message size where
	// you make the connection: TLS and Dialer must be empty here.
	Conn grpc.ClientConnInterface
	// OpenTimeout is how long Open waits for a server that is out of reach or not ready. Default:
	// the operator's hold.
	OpenTimeout time.Duration
	// NonIdempotent says that a lost connection must not make a row reach the model twice. A call
	// that was lost after it may have been written then fails its records with ErrUnreachable; it
	// is not made again. A call that the server or something on the way cancelled fails them too
	// (ErrCancelled), and so does a call whose answer the client cannot read.
	NonIdempotent bool
	// Observe, if set, is called after each request, for metrics, by several goroutines at
	// once. It must not block. A panic in it fails the operator (A69).
	Observe func(Request)
	// Logger receives changes of the connection, never records. A handler that panics fails
	// nothing; its first panic is reported on standard error. Default: the operator's logger.
	Logger *slog.Logger
}

// Request describes a request that has ended.
type Request struct {
	// Rows is the number of rows in it, and Took how long it was in progress.
	Rows int
	Took time.Duration
	Err  error // of the RPC; nil: it was answered
	// Operator and Subtask (from 0) say which subtask sent it.
	Operator string
	Subtask  int
}

// Backoff sets the delays between attempts. The first delay is Base, and each further one is Factor
// times longer, up to Max. From the second delay on, each is changed at random by at most the share
// Jitter of it, in either direction.
type Backoff struct {
	Base   time.Duration // default 50 ms
	Max    time.Duration // default 2 s
	Factor float64       // default 1.6
	Jitter float64       // default 0.2; async.Off for exact delays
}

// delay returns the wait after the (n+1)-th failure in a row.
func (b Backoff) delay(n int) time.Duration {
	if n == 0 {
		return b.Base
	}
	d := math.Min(float64(b.Base)*math.Pow(b.Factor, float64(n)), float64(b.Max))
	return time.Duration(d * (1 + b.Jitter*(2*rand.Float64()-1)))
}

// Validate checks the configuration. The error names each field that is wrong and says what it may
// be.
func (c Config) Validate() error {
	_, _, err := c.resolve()
	return err
}

// resolve checks the configuration and fills in its defaults.
func (c Config) resolve() (Config, endpoint.Endpoint, error) {
	var bad []string
	wrong := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	positive := func(name string, v *int, fallback, most int) {
		if *v < 0 || *v > most {
			wrong("%s is %d; want 1 to %d, or 0 for %d", name, *v, most, fallback)
		} else if *v == 0 {
			*v = fallback
		}
	}
	ep, err := endpoint.Parse(c.Endpoint)
	switch {
	case c.Conn != nil && (c.TLS != nil || c.Dialer != nil):
		wrong("a TLS configuration or a dialer with a ready connection, which has its own; remove them or the connection")
	case c.Conn != nil || c.Dialer != nil:
		if c.Endpoint == "" {
			c.Endpoint = "sidecar"
		}
		if err != nil {
			ep = endpoint.Endpoint{Address: c.Endpoint}
		}
	case err != nil:
		wrong("%v", err)
	case c.TLS != nil && ep.IsUnix():
		wrong("TLS on the Unix socket %s; remove it, or use a TCP endpoint", c.Endpoint)
	}
	if s := c.Signature; s != nil {
		if err := s.Validate(); err != nil {
			wrong("the stated signature: %v", err)
		}
	}
	if c.Model == "" {
		wrong("no model; set its name on the server")
	}
	positive("max batch", &c.MaxBatch, DefaultMaxBatch, 1<<20)
	positive("window", &c.Window, DefaultWindow, 1<<10)
	positive("max bytes", &c.MaxBytes, DefaultMaxBytes, math.MaxInt32)
	positive("least bytes for shared memory", &c.SharedMemoryMin, DefaultSharedMemoryMin, math.MaxInt32)
	if c.SharedMemory != 0 {
		c.checkSharedMemory(ep, wrong)
	}
	positive("max message size", &c.MaxMessageSize, DefaultMaxMessageSize, math.MaxInt32)
	if c.OpenTimeout < 0 {
		wrong("open timeout is %v; want more than 0, or 0 for the operator's hold", c.OpenTimeout)
	}
	c.Backoff = c.Backoff.resolve(wrong)
	if bad != nil {
		return c, ep, errors.New("sidecar: invalid configuration: " + strings.Join(bad, "; "))
	}
	return c, ep, nil
}

// minSlot is the smallest size of a slot of shared memory.
const minSlot = 4 << 10

// checkSharedMemory is called with Window resolved.
func (c *Config) checkSharedMemory(ep endpoint.Endpoint, wrong func(string, ...any)) {
	if least := 2 * c.Window * minSlot; c.SharedMemory < least || c.SharedMemory > 1<<40 {
		wrong("%d bytes of shared memory; want 0 for none, or %d (%d slots of %d) to %d", c.SharedMemory, least, 2*c.Window, minSlot, 1<<40)
	}
	if c.Conn != nil {
		wrong("shared memory with a ready connection; remove one of the two: only the channel's own connection shows when a request ends at the server")
	}
	host, _, err := net.SplitHostPort(ep.Address)
	if ip := net.ParseIP(host); ep.Network == "tcp" && c.Dialer == nil && err == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		wrong("shared memory with %s, which may be another machine; use a Unix socket, localhost or a loopback address", c.Endpoint)
	}
}

func (b Backoff) resolve(wrong func(string, ...any)) Backoff {
	if b.Base == 0 {
		b.Base = 50 * time.Millisecond
	}
	if b.Max == 0 {
		b.Max = max(2*time.Second, b.Base)
	}
	if b.Factor == 0 {
		b.Factor = 1.6
	}
	switch b.Jitter {
	case 0:
		b.Jitter = 0.2
	case async.Off:
		b.Jitter = 0
	}
	if b.Base < 0 || b.Max < b.Base {
		wrong("backoff from %v to %v; want 0 < base <= max", b.Base, b.Max)
	}
	if !(b.Factor >= 1 && b.Factor <= 100) {
		wrong("backoff factor is %v; want 1 to 100", b.Factor)
	}
	if !(b.Jitter >= 0 && b.Jitter < 1) {
		wrong("backoff jitter is %v; want 0 up to 1, 0 for 0.2, or %d for none", b.Jitter, async.Off)
	}
	return b
}
