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

// Defaults of Config.
const (
	DefaultMaxBatch        = 256
	DefaultWindow          = 4
	DefaultMaxBytes        = 16 << 20
	DefaultMaxMessageSize  = 64 << 20
	DefaultSharedMemoryMin = 64 << 10
)

// Config is how the channels to a sidecar run. Its zero value is the documented
// defaults; Endpoint (or Conn) and Model must be set.
type Config struct {
	// Endpoint is where the sidecar listens: unix:///abs/path.sock,
	// unix-abstract:name, host:port or [v6]:port. With Dialer or Conn it may be any
	// name, and is used in messages.
	Endpoint string
	// Model is the model's name on the server, and Version its version; empty: the
	// server chooses, and answers of any version are taken.
	Model, Version string
	// Signature states what the model takes and gives, for a server that does not tell; nil: it
	// has to. Used are Inputs, Outputs, Batched and MaxBatch. What the server does tell is taken,
	// and must agree with it in the names, datatypes and shapes of tensors.
	Signature *tensor.Signature
	// MaxBatch bounds the rows of a request. Default 256. The model's own bound
	// and the operator's capacity divided by Window bound it too.
	MaxBatch int
	// Window is how many requests a channel keeps in flight. Default 4.
	Window int
	// MaxBytes bounds the tensor data of a request, in bytes. A row that is larger
	// goes alone. Default 16 MiB.
	MaxBytes int
	// MaxMessageSize bounds a message in either direction, in bytes. Default 64 MiB. The server has
	// a bound of its own, which is found out. What a channel holds in answers is at most Window
	// times this, beside the results that wait in the operator (A78).
	MaxMessageSize int
	// SharedMemory is how many bytes of shared memory a channel sets aside for tensors, in 2 times
	// Window equal slots; 0: none. A request that has a slot sends only where its tensors lie, and
	// gets outputs of a fixed size the same way. It needs a server on this machine (a Unix socket
	// or a loopback address, with no proxy before it) that runs as the same user and has Triton's
	// calls for system shared memory, from Triton 24.09 on. Where it cannot be used that is logged
	// once, and tensors travel in requests; as they do if no slot is free. A request with a slot is
	// never cancelled, since the server may write to the slot until it is done: of one that timed
	// out the server is told the time it has left in the queue, by the request parameter "timeout".
	SharedMemory int
	// SharedMemoryMin is how many bytes the inputs of a request must have together to go there, and
	// the outputs together. Default 64 KiB.
	SharedMemoryMin int
	// Backoff spaces the attempts to connect.
	Backoff Backoff
	// TLS, for TCP endpoints; nil: no TLS. A certificate in it makes it mutual.
	TLS *tls.Config
	// Dialer replaces the way of connecting. address is the endpoint's: a path, @name or host:port;
	// Endpoint itself if it is none of the known forms. Of connections that are no *net.TCPConn or
	// *net.UnixConn nobody knows whether the other side's system is there: one on which nothing
	// comes while calls are in progress, not even the answer to a question, is lost (A73). A panic
	// of it, or of a method of its connections, fails the operator (A69).
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// Conn is a ready connection to use instead of one of the channel's own. It is
	// shared by all subtasks and not closed. What is set for connecting (TLS, Dialer,
	// Backoff's use in reconnecting, MaxMessageSize) is then its maker's part.
	Conn grpc.ClientConnInterface
	// OpenTimeout bounds how long Open waits for a server that is out of reach or
	// not ready. Default: the operator's hold.
	OpenTimeout time.Duration
	// NonIdempotent says that a row must not reach the model twice because a
	// connection was lost: a call lost after it may have been written is then its
	// record's failure (ErrUnreachable), instead of being made again. So is one that others have
	// cancelled (ErrCancelled), and one of whose answer this side can make nothing.
	NonIdempotent bool
	// Observe is told of each request, for metrics, from several goroutines. It must not block. A
	// panic of it fails the operator (A69).
	Observe func(Request)
	// Logger takes changes of the connection, never records. A handler that panics fails nothing:
	// the first time is told on standard error. Default: the operator's.
	Logger *slog.Logger
}

// Request is one that has ended.
type Request struct {
	Rows int
	Took time.Duration
	Err  error // of the RPC; nil: it was answered
	// Operator and Subtask, from 0, sent it.
	Operator string
	Subtask  int
}

// Backoff spaces attempts: Base, then Factor times more each, at most Max; from the
// second on changed at random by up to the share Jitter of it.
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

// Validate checks the configuration. The error names each field that is wrong and what
// it may be.
func (c Config) Validate() error {
	_, _, err := c.resolve()
	return err
}

// resolve checks the configuration and fills its defaults in.
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
		wrong("a TLS configuration or a dialer with a ready connection, which has its own; set one or the other")
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
		wrong("TLS on the Unix socket %s; TLS is for TCP", c.Endpoint)
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

// minSlot is the least size of a slot of shared memory.
const minSlot = 4 << 10

// checkSharedMemory is called with Window resolved.
func (c *Config) checkSharedMemory(ep endpoint.Endpoint, wrong func(string, ...any)) {
	if least := 2 * c.Window * minSlot; c.SharedMemory < least || c.SharedMemory > 1<<40 {
		wrong("%d bytes of shared memory; want 0 for none, or %d (%d slots of %d) to %d", c.SharedMemory, least, 2*c.Window, minSlot, 1<<40)
	}
	if c.Conn != nil {
		wrong("shared memory with a ready connection; it needs one of the channel's own, which sees when a request ends")
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
