// Package mock is a backend without a model, for tests of the whole path. Its answer is a
// documented function of each row. It takes as long, and fails as often, as its options say. Put
// [Loader] into a backend.Registry under the scheme "mock", or make a model with [New]. It costs no
// model file and almost no time; its figures say nothing about the speed of a real model, so do not
// use it in production.
//
// # Functions
//
// The answer for a row depends on that row alone, never on its batch, on time, latency or seed:
//
//   - double: every element times two, with the datatype's own overflow; a BYTES element is
//     repeated. Not for BOOL.
//   - echo: the row itself.
//   - sum: the sum of all elements of all inputs: one INT64 per row if all inputs are integers or
//     BOOL, and otherwise one FP64. A BYTES element counts its length.
//   - hash: one INT64 per row, FNV-1a over the raw bytes of the row's inputs.
//
// Double and echo have one output for each input, named y or, if there are several inputs, y_ and
// the input's name. The others have one output, y.
//
// # Locations
//
// As a model's location (backend.Registry) it is written
//
//	mock:FUNCTION?input=NAME:DTYPE[d,d]&...
//
// with the options input (repeated for several inputs), output (the name y), batched (false: one
// row per request), max_batch, instances, latency (a, or a+b with b for each row), jitter, seed,
// load_time, load_error, fault (repeated, see ParseFault). Without input there is one, x, of type
// FP32[1].
//
// It must never know of requests, callers or connections.
package mock

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/tensor"
)

// Config describes a mock model. The zero value doubles one FP32 per row, without delay.
type Config struct {
	// Function is double, echo, sum or hash. Empty: double.
	Function string
	// Inputs are the model's inputs. Nil: one, x FP32[1].
	Inputs []tensor.Spec
	// Output is the name of the output. Empty: y.
	Output string
	// Unbatched models have no batch dimension and take one row per run.
	Unbatched bool
	// MaxBatch is the largest number of rows of a run. 0: any number.
	MaxBatch int
	// Instances is the number of runs that may be in progress at once. 0: 1. With more than one,
	// runs of different lengths overtake each other.
	Instances int
	// A run of n rows takes Latency + n*PerRow and up to Jitter more. The exact share of Jitter
	// follows from Seed and the content of the batch.
	Latency, PerRow, Jitter time.Duration
	Seed                    uint64
	// LoadTime is how long loading takes. Only Load and Loader use it.
	LoadTime time.Duration
	// LoadError makes loading fail with this text. Only Load and Loader use it.
	LoadError string
	// NoWarmUp keeps the server from running the model before requests do. The numbers in Faults
	// then count the runs of requests. Loader sets it.
	NoWarmUp bool
	// Faults are what goes wrong and when. "call" in them is a run.
	Faults []Fault
	// Schedule, if set, replaces Faults. Several models may share it.
	Schedule *Schedule
	// OnCrash is what a fault of kind Crash does. Nil: the process ends at once with status 137, as
	// if it were killed.
	OnCrash func()
}

// Model is a mock model. It implements backend.Model.
type Model struct {
	cfg      Config
	sig      tensor.Signature
	schedule *Schedule
	runs     atomic.Int64
	rowsRun  atomic.Int64
	closed   atomic.Bool
}

// New makes the model that cfg describes.
func New(cfg Config) (*Model, error) {
	if cfg.Function == "" {
		cfg.Function = "double"
	}
	if cfg.Inputs == nil {
		cfg.Inputs = []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{1}}}
	}
	if cfg.Output == "" {
		cfg.Output = "y"
	}
	if cfg.Instances == 0 {
		cfg.Instances = 1
	}
	if cfg.Instances < 0 || cfg.MaxBatch < 0 || cfg.Latency < 0 || cfg.PerRow < 0 || cfg.Jitter < 0 || cfg.LoadTime < 0 {
		return nil, errors.New("mock: the number of instances, max_batch and all times must not be negative")
	}
	if cfg.OnCrash == nil {
		cfg.OnCrash = func() { os.Exit(137) }
	}
	outputs, err := outputsOf(cfg)
	if err != nil {
		return nil, err
	}
	for _, f := range cfg.Faults {
		if f.Kind == Drop {
			return nil, fmt.Errorf("mock: fault %q: a backend has no connection to drop", f)
		}
	}
	schedule := cfg.Schedule
	if schedule == nil {
		if schedule, err = NewSchedule(cfg.Faults); err != nil {
			return nil, fmt.Errorf("mock: %w", err)
		}
	}
	m := &Model{cfg: cfg, schedule: schedule, sig: tensor.Signature{
		Model: cfg.Function, Inputs: cfg.Inputs, Outputs: outputs, Batched: !cfg.Unbatched, MaxBatch: cfg.MaxBatch,
	}}
	if err := m.sig.Validate(); err != nil {
		return nil, fmt.Errorf("mock: %w", err)
	}
	return m, nil
}

// Signature implements backend.Model.
func (m *Model) Signature() tensor.Signature { return m.sig }

// Instances implements backend.Model.
func (m *Model) Instances() int { return m.cfg.Instances }

// NoWarmUp implements backend.Unwarmed.
func (m *Model) NoWarmUp() bool { return m.cfg.NoWarmUp }

// Runs returns how often Run was called, and the number of rows in all these calls.
func (m *Model) Runs() (runs, rows int64) { return m.runs.Load(), m.rowsRun.Load() }

// Closed reports whether Close was called.
func (m *Model) Closed() bool { return m.closed.Load() }

// Close implements backend.Model.
func (m *Model) Close() error {
	m.closed.Store(true)
	return nil
}

// Run implements backend.Model.
func (m *Model) Run(ctx context.Context, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	// The inputs are read as if they were the outputs of a model.
	as := tensor.Signature{Outputs: m.sig.Inputs, Batched: m.sig.Batched}
	rows := tensor.NewRows(&as)
	n := 1
	if m.sig.Batched && len(inputs) > 0 && len(inputs[0].Shape) > 0 {
		n = int(inputs[0].Shape[0])
	}
	if len(inputs) != len(m.sig.Inputs) {
		return nil, fmt.Errorf("mock: %d inputs; the model has %d", len(inputs), len(m.sig.Inputs))
	}
	for i, t := range inputs {
		if err := rows.Set(i, t.DType, t.Shape, t.Raw, n); err != nil {
			return nil, &backend.TensorError{Input: t.Name, Err: err}
		}
	}
	run := m.runs.Add(1)
	m.rowsRun.Add(int64(n))
	if err := m.wait(ctx, n, inputs); err != nil {
		return nil, err
	}
	short := false
	if f, bad, ok := m.schedule.Match(run, FirstValues(rows)); ok {
		switch f.Kind {
		case Fail:
			e := f.Error
			return nil, &e
		case BadRow:
			return nil, &backend.RowsError{Rows: bad, Input: m.sig.Inputs[0].Name, Err: errors.New("scripted to be refused")}
		case Hang:
			<-ctx.Done()
			return nil, context.Cause(ctx)
		case Panic:
			panic(fmt.Sprintf("mock: scripted panic in run %d", run))
		case Crash:
			m.cfg.OnCrash()
			return nil, &backend.Error{Code: codes.Unavailable, Message: "mock: crashed"}
		case Short:
			short = true
		}
	}
	return m.answer(rows, n, short)
}

// wait waits for the duration of the run, or until ctx ends.
func (m *Model) wait(ctx context.Context, n int, inputs []tensor.Tensor) error {
	d := m.cfg.Latency + time.Duration(n)*m.cfg.PerRow
	if m.cfg.Jitter > 0 {
		h := fnv.New64a()
		for _, t := range inputs {
			h.Write(t.Raw)
		}
		d += time.Duration(rand.New(rand.NewPCG(m.cfg.Seed, h.Sum64())).Int64N(int64(m.cfg.Jitter) + 1))
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// FirstValues returns the first element of the first output of each row, which
// is what a Fault's Row is compared with. A BYTES element counts as its length,
// a BOOL as 0 or 1, and a row without elements as 0.
func FirstValues(rows *tensor.Rows) []float64 {
	out := make([]float64, rows.Len())
	if len(rows.Signature().Outputs) == 0 {
		return out
	}
	o := rows.Output(0)
	if o.RowElements() == 0 {
		return out
	}
	for i := range out {
		switch o.Spec().DType {
		case tensor.Bytes:
			out[i] = float64(len(o.BytesAt(i, 0)))
		case tensor.Bool:
			if o.BoolAt(i, 0) {
				out[i] = 1
			}
		default:
			out[i] = o.Number(i, 0)
		}
	}
	return out
}
