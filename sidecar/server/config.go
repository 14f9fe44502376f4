package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	// Name is what requests call it by.
	Name string
	// Version is which version of that name it is. Empty: "1". A request that names
	// no version takes the greatest number, or, where no version is a number, the
	// last in the order of text.
	Version string
	// Location is where to load it from, as the Registry reads it: a file, or
	// scheme:path, with options after a question mark.
	Location string
	// Load, if set, makes the model, and Location is only shown. It should give up
	// when ctx ends. It is called again when the model is loaded anew.
	Load func(ctx context.Context) (backend.Model, error)
}

// Config describes a server. Zero values are the defaults.
type Config struct {
	// Models are loaded when the server starts, all at once. Several may have the
	// same name and other versions; these come and go together.
	Models []Model
	// Repository is a folder of models, laid out as Triton's:
	// NAME/VERSION/model.EXT, where VERSION is a number without a zero in front and
	// EXT an extension that Backends has. A model of Models hides the one of its
	// name there. Links are followed inside the folder and never out of it. Empty:
	// none.
	Repository string
	// Explicit says that models are loaded and unloaded by request
	// (RepositoryModelLoad, RepositoryModelUnload): by anyone who may call the
	// server, unless Controllers says who. Then only Models and those of Preload are loaded at the
	// start. Without it all of Repository is, and such requests are refused.
	Explicit bool
	// Controllers are the callers who may load and unload models, with Explicit: "unix" for those
	// on a Unix socket (on an abstract one, which has no mode, for this user and root), "cert" for
	// those who show a client certificate that was verified, and "cert:NAME" for those whose
	// certificate has that common name, DNS name or URI. Others get PERMISSION_DENIED. Empty: every
	// caller.
	Controllers []string
	// Preload names models of Repository to be loaded at the start. Only with
	// Explicit.
	Preload []string
	// Backends are the kinds of model that can be loaded.
	Backends backend.Registry
	// Strict says that the server is not ready as long as a model that it was asked for at
	// its start has failed to load. Without it such a model leaves the others serving, and the
	// server is ready if one of them is loaded.
	Strict bool

	// WarmUp is the batches of zeros that a version is run with before it takes
	// requests, by their number of rows; 0 stands for the most that a batch may have,
	// which larger ones are cut to. Nil: 1 and the most. Empty and not nil: none. It
	// is left out for inputs with dimensions of any size and for a backend.Unwarmed. A version
	// that fails at it is not loaded, unless it has inputs that are strings: it may want others
	// than empty ones.
	WarmUp []int
	// WarmUpTimeout is how long the warm-up of a version may take. Default 1 min.
	WarmUpTimeout time.Duration

	// MaxBatch is the most rows in a batch; a model's own bound holds too.
	// Default 256.
	MaxBatch int
	// MaxBatchDelay is how long a batch may wait to be filled while others run and an
	// instance of the model is free. It costs nothing when the model is idle, and
	// has no effect on a model with one instance. Default 1 ms; negative: none.
	MaxBatchDelay time.Duration

	// QueueRows is the most rows that wait to be run. A request of more rows is
	// refused as too large. Default 16,384.
	QueueRows int
	// QueueBytes is the most bytes of requests that wait to be run, counted in memory
	// and with all that a request brings: tensors, parameters, names, its id. A larger
	// request passes alone. Default 256 MiB.
	QueueBytes int64
	// QueueTimeout is the longest wait in the queue. Default 10 s.
	QueueTimeout time.Duration
	// RetryDelay is how long a refused caller is told to wait: for room in the
	// queue, or for a server that starts or ends. Default 50 ms.
	RetryDelay time.Duration

	// MaxMessageSize is the largest request and the largest answer, in bytes.
	// Default 64 MiB.
	MaxMessageSize int
	// MaxStreams is the most calls of one connection at once. Others wait at the
	// caller. Default 1,024.
	MaxStreams int
	// MaxConnections is the most gRPC connections at once, of all listeners. Further ones are
	// closed. Default 256.
	MaxConnections int
	// MaxCalls is the most inferences at once, from a call's headers to the last byte of its answer
	// that is written, those of streams too. A quarter as many other calls, and at least 16, are
	// taken beside them, and as many streams; 16 calls that load and unload models; and two watches
	// of the server's health on each connection. The rest is refused with QUEUE_FULL. Default
	// 1,024.
	MaxCalls int
	// StreamIdleTimeout is how long a stream may be open on which nothing happens: all that was
	// asked is answered, and nothing is asked. Then it is ended with UNAVAILABLE. A watch of the
	// server's health is never idle. Default 10 min.
	StreamIdleTimeout time.Duration

	// ReceiveTimeout is how long a request may take to arrive, and a connection to be set up.
	// Default 30 s.
	ReceiveTimeout time.Duration
	// ReceiveBytes is the most bytes of inferences that arrive, are unzipped and decoded, up to
	// their admission to the queue. A quarter of it is for those of at most 1 MiB, and the rest for
	// larger ones. A request takes of it as it comes in, and waits for room for at most
	// QueueTimeout in all; then it is refused with MEMORY_PRESSURE. There is always room for one of
	// MaxMessageSize; one that is longer than what is for large ones when it is decoded, as typed
	// contents may be, is too large. Other requests, of at most 64 KiB, have 16 MiB of their own.
	// Default 256 MiB.
	ReceiveBytes int64
	// MaxRatio is how many times its size a compressed request may be when it is unzipped. One of
	// at most 1 MiB is taken whatever its ratio. Default 100.
	MaxRatio int
	// MaxTensors is the most inputs of a request, and the most outputs that it asks for;
	// MaxParameters the most parameters, of all its parts together; MaxDimensions the most
	// dimensions of a tensor. They are counted before the request is decoded. Default 1,024, 256
	// and 64.
	MaxTensors, MaxParameters, MaxDimensions int
	// AnswerTimeout is how long a caller may take to read an answer. Then its connection is
	// closed. Default 30 s.
	AnswerTimeout time.Duration
	// AnswerBytes is the most bytes of answers of inferences that are not read yet. What comes
	// beyond them is given up, with INTERRUPTED. A larger answer passes alone. Those of other calls
	// have 16 MiB of their own. Default 256 MiB.
	AnswerBytes int64

	// NoSharedMemory switches the calls off with which callers on this machine put
	// tensors into shared memory (Linux only). They are served to callers on a Unix socket who
	// are the user of this process or root, since a caller may name any object of /dev/shm that
	// this process may open.
	NoSharedMemory bool
	// SharedMemoryTCP serves these calls over loopback TCP too. Then every user of this machine may
	// read and write every object of /dev/shm that this process may.
	SharedMemoryTCP bool

	// Grace is how long Shutdown, and Serve at its end, lets admitted requests
	// take. Default 15 s; negative: none.
	Grace time.Duration

	// Logger gets what happens to models and the server, nothing of each request. A handler that
	// panics fails nothing: the first time is told on standard error. Nil: nothing is logged.
	Logger *slog.Logger

	// NoReflection leaves out gRPC's server reflection, by which tools such as
	// grpcurl learn the protocol.
	NoReflection bool

	// Tracer is told of a span for each inference whose caller sends a sampled trace context in the
	// metadata of its call (W3C, traceparent), with one for its wait and one for each batch that it
	// is in. A trace is never begun. Nil: none.
	Tracer trace.Tracer

	// Options are further options of the gRPC server, as credentials and chained interceptors.
	// Those for message sizes, windows, codecs and keepalive come from this package, and stats
	// handlers hear of no payloads that come in. With TLS in credentials the server cannot see
	// into what how small parts a caller cuts its requests; wrap the listeners with
	// tls.NewListener instead. A panic of an interceptor is
	// the answer INTERNAL to its call; an interceptor of streams must be chained for that
	// (grpc.ChainStreamInterceptor).
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
		bad("Preload names models of Repository to load at the start, which takes Repository and Explicit")
	}
	for _, name := range c.Preload {
		if err := checkName(name); err != nil {
			bad("Preload: %w", err)
		}
	}
	if len(c.Controllers) > 0 && !c.Explicit {
		bad("Controllers says who may load and unload models, which takes Explicit")
	}
	if err := checkControllers(c.Controllers); err != nil {
		bad("Controllers: %w", err)
	}
	if c.WarmUp == nil {
		c.WarmUp = []int{1, 0}
	}
	for _, rows := range c.WarmUp {
		if rows < 0 {
			bad("WarmUp has a batch of %d rows; want 1 or more, or 0 for the most", rows)
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

// What a connection and a call take at most, beside what is counted: buffers, goroutines, headers,
// what has come of a request before anybody reads it, and the first of it that is read. Watches are
// calls that belong to their connection.
const (
	connectionRoom = 128<<10 + mostWatches*callRoom
	callRoom       = 48<<10 + maxHeaders + streamWindow + streamWindow/crumbBytes*frameCost + freeRoom
)

// controlBytes is the most bytes of requests that are no inference, and that of their answers.
const controlBytes = 16 << 20

// receiveBytes shares ReceiveBytes out to small requests and to large ones, or to each what the
// largest of them needs.
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
