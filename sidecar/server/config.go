package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/trace"
)

// The defaults of Config.
const (
	DefaultMaxBatch       = 256
	DefaultMaxBatchDelay  = time.Millisecond
	DefaultQueueRows      = 16384
	DefaultQueueBytes     = 256 << 20
	DefaultQueueTimeout   = 10 * time.Second
	DefaultRetryDelay     = 50 * time.Millisecond
	DefaultMaxMessageSize = 64 << 20
	DefaultGrace          = 15 * time.Second
	DefaultMaxStreams     = 1024
	DefaultMaxConnections = 256
	DefaultMaxCalls       = 1024
	DefaultReceiveTimeout = 30 * time.Second
	DefaultReceiveBytes   = 256 << 20
	DefaultAnswerTimeout  = 30 * time.Second
	DefaultAnswerBytes    = 256 << 20
	DefaultMaxRatio       = 100
	DefaultMaxTensors     = 1024
	DefaultMaxParameters  = 256
	DefaultMaxDimensions  = 64
	DefaultWarmUpTimeout  = time.Minute

	DefaultStreamIdleTimeout = 10 * time.Minute
)

// Model says which model to load and under which name.
type Model struct {
	// Name is the name that requests use.
	Name string
	// Version is the version of that name. Empty: "1". A request that names no version takes the
	// greatest number, or, if no version is a number, the last in the order of text.
	Version string
	// Location is where the model is loaded from, as backend.ParseLocation reads it: a file, or
	// scheme:path, with options after a question mark.
	Location string
	// Load, if set, makes the model, and Location is only shown. It should give up when ctx ends.
	// It is called again when the model is loaded again.
	Load func(ctx context.Context) (backend.Model, error)
}

// Config describes a server. Zero fields take the defaults. A negative value is an error, except
// where the field says otherwise.
type Config struct {
	// Models are loaded when the server starts, all at once. Several may have the same name and
	// different versions; they are loaded and unloaded together.
	Models []Model
	// Repository is a folder of models in Triton's layout: NAME/VERSION/model.EXT. VERSION is a
	// number without a leading zero, and EXT an extension that Backends has. A model of Models
	// hides the one of the same name in the folder. Links are followed inside the folder and never
	// out of it. Empty: no folder.
	Repository string
	// Explicit says that models are loaded and unloaded by request (RepositoryModelLoad,
	// RepositoryModelUnload). Every caller may do that, unless Controllers is set. With
	// Explicit only the models of Models and Preload are loaded at the start. Without it all of
	// Repository is loaded, and such requests are refused.
	Explicit bool
	// Controllers are the callers that may load and unload models. It needs Explicit. "unix"
	// stands for those on a Unix socket; on an abstract socket, which has no mode, only this
	// user and root. "cert" stands for those that show a client certificate that was verified,
	// and "cert:NAME" for those whose certificate has that common name, DNS name or URI. Other
	// callers get PERMISSION_DENIED. Empty: every caller.
	Controllers []string
	// Preload names models of Repository that are loaded at the start. It needs Explicit.
	Preload []string
	// Backends are the kinds of model that can be loaded.
	Backends backend.Registry
	// Strict says that the server is not ready as long as a model that it was asked for at its
	// start has failed to load. Without Strict the other models are served, and the server is ready
	// if at least one is loaded.
	Strict bool

	// WarmUp are the batches of zeros that a version runs before it takes requests, by their
	// numbers of rows. 0 stands for the largest batch of the model, to which larger numbers are
	// cut. Nil: 1 and 0. Empty but not nil: no warm-up. The warm-up is left out for models whose
	// inputs have dimensions of any size, and for a backend.Unwarmed that says so. A version that
	// fails in its warm-up is not loaded, unless some of its inputs are strings: it may refuse
	// empty ones.
	WarmUp []int
	// WarmUpTimeout is how long the warm-up of a version may take. Default 1 min.
	WarmUpTimeout time.Duration

	// MaxBatch is the largest number of rows in a batch. A model's own bound is a bound too.
	// Default 256.
	MaxBatch int
	// MaxBatchDelay is how long a batch may wait to be filled while other batches run and an
	// instance of the model is free. It costs nothing when the model is idle, and has no effect on
	// a model with one instance. Default 1 ms; negative: no wait.
	MaxBatchDelay time.Duration

	// QueueRows is the largest number of rows that wait to be run. A request of more rows is
	// refused as too large. Default 16,384.
	QueueRows int
	// QueueBytes is the largest number of bytes of requests that wait to be run. It counts all that
	// a request holds in memory: tensors, parameters, names and id. A larger request is admitted
	// when no other waits. Default 256 MiB.
	QueueBytes int64
	// QueueTimeout is the longest wait in the queue. Default 10 s.
	QueueTimeout time.Duration
	// RetryDelay is how long a refused caller is asked to wait, until there is room in the queue or
	// until the server has started or ended. Default 50 ms.
	RetryDelay time.Duration

	// MaxMessageSize is the largest size of a request and of an answer, in bytes. Default 64 MiB.
	MaxMessageSize int
	// MaxStreams is the largest number of calls on one connection at the same time. Further calls
	// wait at the caller. Default 1,024.
	MaxStreams int
	// MaxConnections is the largest number of open gRPC connections, over all listeners. Further
	// connections are closed. Default 256.
	MaxConnections int
	// MaxCalls is the largest number of inferences at the same time, those of streams included. An
	// inference counts from its headers until the last byte of its answer is written. In addition
	// the server takes a quarter as many other calls, and at least 16; as many streams; 16 calls
	// that load and unload models; and two watches of the server's health on each connection.
	// Further calls are refused with QUEUE_FULL. Default 1,024.
	MaxCalls int
	// StreamIdleTimeout is how long a stream may be idle: every request on it is answered, and no
	// new one comes. Then it ends with UNAVAILABLE. A watch of the server's health is never idle.
	// Default 10 min.
	StreamIdleTimeout time.Duration

	// ReceiveTimeout is how long a request may take to arrive, and a connection to be set up.
	// Default 30 s.
	ReceiveTimeout time.Duration
	// ReceiveBytes is the largest number of bytes of inferences that arrive, are unzipped and are
	// decoded, until they are admitted to the queue. A quarter of it is for requests of at most 1
	// MiB, and the rest for larger ones. A request takes its share as it arrives. It waits for room
	// for at most QueueTimeout in all, and is then refused with MEMORY_PRESSURE. There is always
	// room for one request of MaxMessageSize. A request may grow when it is decoded, as typed
	// contents do; if it then exceeds the share of large requests, it is refused as too large.
	// Other requests, of at most 64 KiB each, have 16 MiB of their own. Default 256 MiB.
	ReceiveBytes int64
	// MaxRatio is how many times its compressed size a request may have when it is unzipped. A
	// request may always grow to 1 MiB. Default 100.
	MaxRatio int
	// MaxTensors is the largest number of inputs of a request, and of outputs that it asks for.
	// MaxParameters is the largest number of parameters, over all parts of a request. MaxDimensions
	// is the largest number of dimensions of a tensor. All are counted before the request is
	// decoded. Defaults 1,024, 256 and 64.
	MaxTensors, MaxParameters, MaxDimensions int
	// AnswerTimeout is how long a caller may take to read an answer. Then its connection is closed.
	// Default 30 s.
	AnswerTimeout time.Duration
	// AnswerBytes is the largest number of bytes of inference answers that callers have not read
	// yet. An answer that exceeds it is dropped, and its call ends with INTERRUPTED. A larger
	// answer is sent when no other waits. The answers of other calls have 16 MiB of their own.
	// Default 256 MiB.
	AnswerBytes int64

	// NoSharedMemory switches off the calls by which callers on this machine put tensors into
	// shared memory (Linux only). These calls are open to callers on a Unix socket whose user is
	// this process's user or root, because a caller may name any object of /dev/shm that this
	// process may open.
	NoSharedMemory bool
	// SharedMemoryTCP opens these calls to loopback TCP too. Then every user of this machine can
	// read and write every object of /dev/shm that this process can.
	SharedMemoryTCP bool

	// Grace is how long Shutdown, and Serve at its end, lets admitted requests take. Default 15 s;
	// negative: no grace.
	Grace time.Duration

	// Logger receives what happens to models and the server, and nothing about single requests. A
	// log handler that panics does no harm; its first panic is reported on standard error. Nil:
	// nothing is logged.
	Logger *slog.Logger

	// NoReflection switches off gRPC's server reflection, from which tools such as grpcurl learn
	// the protocol.
	NoReflection bool

	// Tracer receives one span for each inference whose caller sends a sampled trace context in the
	// call's metadata (W3C, traceparent), one for its wait and one for each batch that it is in.
	// The server never begins a trace. Nil: no tracing.
	Tracer trace.Tracer

	// Divert, if set, takes over each connection that does not begin with the first byte of HTTP/2,
	// so that a listener serves a second protocol. It owns the connection then, which counts among
	// MaxConnections until it is closed, and must return soon. It is called by several goroutines
	// at once. Options must not have credentials then.
	Divert func(net.Conn)

	// Options are further options of the gRPC server, such as credentials and chained interceptors.
	// Options for message sizes, windows, codecs and keepalive come from this package. Stats
	// handlers do not see the payloads of requests. With TLS in credentials the server cannot see
	// into how small parts a caller cuts its requests; wrap the listeners with tls.NewListener
	// instead. If an interceptor panics, its call is answered with INTERNAL; an interceptor of
	// streams must be chained for that (grpc.ChainStreamInterceptor).
	Options []grpc.ServerOption
}

// withDefaults checks the configuration and fills in the defaults.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Models) == 0 && c.Repository == "" {
		bad("no models and no repository of models; name at least one")
	}
	c.Models = slices.Clone(c.Models)
	seen := map[[2]string]bool{}
	for i := range c.Models {
		m := &c.Models[i]
		m.Version = cmp.Or(m.Version, "1")
		switch key := [2]string{m.Name, m.Version}; {
		case m.Name == "":
			bad("the model at %q has no name", m.Location)
		case seen[key]:
			bad("two models have the name %q and the version %q", m.Name, m.Version)
		case m.Location == "" && m.Load == nil:
			bad("model %q has no location", m.Name)
		default:
			seen[key] = true
		}
	}
	if len(c.Preload) > 0 && (!c.Explicit || c.Repository == "") {
		bad("Preload names models of Repository to load at the start; it needs Repository and Explicit")
	}
	for _, name := range c.Preload {
		if err := checkName(name); err != nil {
			bad("Preload: %w", err)
		}
	}
	if len(c.Controllers) > 0 && !c.Explicit {
		bad("Controllers names the callers that may load and unload models; it needs Explicit")
	}
	if err := checkControllers(c.Controllers); err != nil {
		bad("Controllers: %w", err)
	}
	if c.WarmUp == nil {
		c.WarmUp = []int{1, 0}
	}
	for _, rows := range c.WarmUp {
		if rows < 0 {
			bad("WarmUp has a batch of %d rows; want 1 or more, or 0 for the largest batch", rows)
		}
	}
	positive(&c.WarmUpTimeout, DefaultWarmUpTimeout, "WarmUpTimeout", bad)
	positive(&c.MaxBatch, DefaultMaxBatch, "MaxBatch", bad)
	positive(&c.QueueRows, DefaultQueueRows, "QueueRows", bad)
	positive(&c.QueueBytes, DefaultQueueBytes, "QueueBytes", bad)
	positive(&c.QueueTimeout, DefaultQueueTimeout, "QueueTimeout", bad)
	positive(&c.RetryDelay, DefaultRetryDelay, "RetryDelay", bad)
	positive(&c.MaxMessageSize, DefaultMaxMessageSize, "MaxMessageSize", bad)
	positive(&c.MaxStreams, DefaultMaxStreams, "MaxStreams", bad)
	positive(&c.MaxConnections, DefaultMaxConnections, "MaxConnections", bad)
	positive(&c.MaxCalls, DefaultMaxCalls, "MaxCalls", bad)
	positive(&c.StreamIdleTimeout, DefaultStreamIdleTimeout, "StreamIdleTimeout", bad)
	positive(&c.ReceiveTimeout, DefaultReceiveTimeout, "ReceiveTimeout", bad)
	positive(&c.ReceiveBytes, DefaultReceiveBytes, "ReceiveBytes", bad)
	positive(&c.MaxRatio, DefaultMaxRatio, "MaxRatio", bad)
	positive(&c.MaxTensors, DefaultMaxTensors, "MaxTensors", bad)
	positive(&c.MaxParameters, DefaultMaxParameters, "MaxParameters", bad)
	positive(&c.MaxDimensions, DefaultMaxDimensions, "MaxDimensions", bad)
	positive(&c.AnswerTimeout, DefaultAnswerTimeout, "AnswerTimeout", bad)
	positive(&c.AnswerBytes, DefaultAnswerBytes, "AnswerBytes", bad)
	orNone(&c.MaxBatchDelay, DefaultMaxBatchDelay)
	orNone(&c.Grace, DefaultGrace)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = guard.Logger(c.Logger)
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("sidecar server: %w", err)
	}
	return c, nil
}

func positive[T int | int64 | time.Duration](v *T, def T, name string, bad func(string, ...any)) {
	if *v < 0 {
		bad("%s is %v; want more than 0, or 0 for the default, %v", name, *v, def)
	}
	if *v == 0 {
		*v = def
	}
}

// The most memory that a connection and a call take besides what is counted: buffers, goroutines,
// headers, the bytes of a request that have arrived and are not read, and the first bytes that are
// read. Watches are calls that belong to their connection.
const (
	connectionRoom = 128<<10 + mostWatches*callRoom
	callRoom       = 48<<10 + maxHeaders + streamWindow + streamWindow/crumbBytes*frameCost + freeRoom
)

// controlBytes bounds the bytes of requests that are not inferences, and, by itself, the bytes of
// their answers.
const controlBytes = 16 << 20

// receiveBytes divides ReceiveBytes between small and large requests. Each kind gets at least what
// its largest request needs.
func (c *Config) receiveBytes() (small, largestSmall, large, largest int64) {
	largestSmall, largest = claimOf(min(c.MaxMessageSize, smallRequest), 1), claimOf(c.MaxMessageSize, 1)
	small = max(c.ReceiveBytes/4, largestSmall)
	return small, largestSmall, max(c.ReceiveBytes-small, largest), largest
}

func orNone(v *time.Duration, def time.Duration) {
	switch {
	case *v < 0:
		*v = 0
	case *v == 0:
		*v = def
	}
}
