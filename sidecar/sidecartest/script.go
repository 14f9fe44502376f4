package sidecartest

import (
	"time"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/tensor"
	"github.com/tensorferry/tensorferry/trace"
)

// Script says what the sidecar serves, how long it takes, and what goes wrong. The zero value
// serves a model named "model" that doubles one FP32 per row (input x, output y) at once, never
// fails, and runs every request by itself.
type Script struct {
	// Model is the name of the model. Empty: "model".
	Model string
	// Version is the version of the model. Empty: "1".
	Version string

	// Function is what the model computes: double, echo, sum or hash, as package
	// mock describes them. Empty: double.
	Function string
	// Inputs are the model's inputs. Nil: one, x FP32[1].
	Inputs []tensor.Spec
	// Output is the name of the output. Empty: y.
	Output string
	// Unbatched models take one row per request.
	Unbatched bool

	// A batch of n rows takes Latency + n*PerRow and up to Jitter more. The exact share of Jitter
	// follows from Seed and the content. With Jitter, answers arrive out of order.
	Latency, PerRow, Jitter time.Duration
	Seed                    uint64
	// Instances is the number of batches that run at once. 0: 256, so that requests do not wait for
	// each other. 1: like a single GPU, so that requests that arrive while it is busy are run
	// together.
	Instances int

	// LoadTime is how long the model is MODEL_LOADING after each start.
	LoadTime time.Duration
	// LoadError makes the model MODEL_LOAD_FAILED, with this text.
	LoadError string

	// Faults happen to calls as they arrive, before the server does anything with them. "call" in
	// them counts ModelInfer requests from 1, across restarts. They imitate a foreign server: a
	// fault of kind Fail by Row fails the whole request and names no row, BadRow names the rows,
	// and Short sends an answer that lacks a row.
	Faults []mock.Fault
	// Refuse, if set, is called before Faults for each call, and may refuse the call with a status
	// that is sent unchanged. It imitates how another server, in its own words, refuses a request
	// that is too large or for which it has no room. It is called by several goroutines at once,
	// and must not call the Server.
	Refuse func(Call) error
	// BackendFaults happen in the model, to batches; "call" in them counts batches, from 1 at each
	// start. The server reacts as always: it finds and names the rows at fault, and turns a Short
	// answer into BAD_OUTPUT.
	BackendFaults []mock.Fault

	// The server's own bounds. Zero values are the defaults of server.Config, except that a
	// MaxBatchDelay of 0 means no wait.
	MaxBatch       int
	MaxBatchDelay  time.Duration
	QueueRows      int
	QueueBytes     int64
	QueueTimeout   time.Duration
	RetryDelay     time.Duration
	MaxMessageSize int
	Grace          time.Duration

	// OnStart and OnEnd, if set, are called for each call when it arrives and when its answer is on
	// its way, in the order of the sequence numbers. They must not call the Server.
	OnStart, OnEnd func(Call)
	// OnCrash is what a fault of kind Crash does. Nil: Kill.
	OnCrash func()
	// Tracer receives the spans of inferences, as in server.Config. A fault of Faults happens
	// before the server proper and has no span.
	Tracer trace.Tracer
	// Options are further options of the gRPC server, such as credentials.
	Options []grpc.ServerOption
}

func (s *Script) mock() mock.Config {
	cfg := mock.Config{
		Function: s.Function, Inputs: s.Inputs, Output: s.Output, Unbatched: s.Unbatched,
		Latency: s.Latency, PerRow: s.PerRow, Jitter: s.Jitter, Seed: s.Seed, Instances: s.Instances,
		LoadTime: s.LoadTime, LoadError: s.LoadError,
	}
	if cfg.Instances == 0 {
		cfg.Instances = 256
	}
	return cfg
}
