// Package onnx is a backend that runs ONNX models on the CPU in pure Go, with GoMLX's interpreter.
// It needs no cgo and no library. It suits small models on small machines. Run a large model, or
// one that needs a GPU, with package ort or on a model server of its own. Put [Loader] into a
// backend.Registry under the extension ".onnx".
//
// GoMLX compiles a graph for each shape that it meets. So a batch is padded to the next power of
// two with copies of its last row, and the answer is cut. The last few graphs are kept. The low
// bits of a floating-point answer may depend on the padded size. With the option fixed_batch every
// batch has the same size, at the cost of the padding.
//
// The options of a location, as in digits.onnx?fixed_batch=32, are
//
//	fixed_batch=N  pad every batch to N rows, and take no more than N
//	max_batch=N    take no more than N rows (default: any number)
//	instances=N    run N batches at once (default 1)
//
// It must never know of requests, callers or connections.
package onnx

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"sync"

	"github.com/gomlx/gomlx/backends"
	"github.com/gomlx/gomlx/backends/simplego"
	"github.com/gomlx/gomlx/pkg/core/dtypes"
	"github.com/gomlx/gomlx/pkg/core/shapes"
	"github.com/gomlx/gomlx/pkg/core/tensors"
	mlcontext "github.com/gomlx/gomlx/pkg/ml/context"
	"github.com/gomlx/onnx-gomlx/onnx"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/tensor"
)

// Options say how a model is run. Zero fields take the defaults.
type Options struct {
	// FixedBatch pads every batch to this many rows, which is then also the largest batch of the
	// model. 0: each batch is padded to the next power of two.
	FixedBatch int
	// MaxBatch is the largest number of rows in a batch. 0: any number.
	MaxBatch int
	// Instances is the number of batches that run at once. 0: 1.
	Instances int
}

// Loader loads the models of locations as the package comment describes them.
func Loader() backend.Loader { return loader{} }

type loader struct{}

// Check implements backend.Checker.
func (loader) Check(loc backend.Location) error {
	_, err := optionsOf(loc)
	return err
}

func (loader) Load(ctx context.Context, loc backend.Location) (backend.Model, error) {
	o, err := optionsOf(loc)
	if err != nil {
		return nil, err
	}
	return Load(ctx, loc.Path, o)
}

func optionsOf(loc backend.Location) (o Options, err error) {
	if err := loc.CheckOptions("fixed_batch", "max_batch", "instances"); err != nil {
		return o, err
	}
	for name, to := range map[string]*int{"fixed_batch": &o.FixedBatch, "max_batch": &o.MaxBatch, "instances": &o.Instances} {
		text := loc.Options.Get(name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return o, fmt.Errorf("option %s=%s: want a number, at least 1", name, text)
		}
		*to = n
	}
	return o, nil
}

// Model is a loaded ONNX model. It implements backend.Model.
type Model struct {
	sig     tensor.Signature
	opts    Options
	engine  backends.Backend
	weights *mlcontext.Context
	names   []string // of the outputs
	graphs  graphs
	file

	compiling sync.Mutex // held while a graph is built
}

// Load reads the model from a file. It then runs the model once, so that an unsupported operator is
// an error now, unless the model's rows have dimensions of any size. Reading the file ignores ctx.
func Load(ctx context.Context, path string, opts Options) (_ *Model, err error) {
	if opts.FixedBatch < 0 || opts.MaxBatch < 0 || opts.Instances < 0 {
		return nil, errors.New("onnx: FixedBatch, MaxBatch and Instances must not be negative")
	}
	if opts.FixedBatch > 0 && (opts.MaxBatch == 0 || opts.MaxBatch > opts.FixedBatch) {
		opts.MaxBatch = opts.FixedBatch
	}
	opts.Instances = max(opts.Instances, 1)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("onnx: %s: %v", path, p)
		}
	}()
	f, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("onnx: %s: %w", path, err)
	}
	m := &Model{opts: opts, file: f, weights: mlcontext.New()}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	// Operators run one after the other. By default they would run in parallel, each in a
	// goroutine, which costs several times the work of a small model.
	if m.engine, err = simplego.New("ops_sequential"); err != nil {
		return nil, fmt.Errorf("onnx: %w", err)
	}
	if err := caught(func() error { return m.model.VariablesToContext(m.weights) }); err != nil {
		return nil, fmt.Errorf("onnx: %s: its weights cannot be read in pure Go; use ONNX Runtime: %w", path, err)
	}
	m.weights = m.weights.Reuse()
	m.graphs.build = func() (*mlcontext.Exec, error) { return m.executor(m.names) }
	if err := m.describe(path); err != nil {
		return nil, fmt.Errorf("onnx: %s: %w", path, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := m.probe(ctx); err != nil {
		return nil, fmt.Errorf("onnx: %s cannot be run: %w", path, err)
	}
	return m, nil
}

// describe reads the signature. A model is batched if the first dimension of each input and output
// may have any size.
func (m *Model) describe(path string) error {
	inNames, ins := m.model.Inputs()
	outNames, outs := m.model.Outputs()
	if len(ins) == 0 || len(outs) == 0 {
		return fmt.Errorf("the model has %d inputs and %d outputs; both are needed", len(ins), len(outs))
	}
	m.names = outNames
	m.sig = tensor.Signature{Model: m.model.Name(), Batched: true, MaxBatch: m.opts.MaxBatch}
	if m.sig.Model == "" {
		m.sig.Model = path
	}
	for _, s := range append(slices.Clone(ins), outs...) {
		if len(s.Dimensions) == 0 || s.Dimensions[0] != onnx.DynamicDim {
			m.sig.Batched = false
		}
	}
	specs := func(kind string, names []string, of []shapes.Shape) ([]tensor.Spec, error) {
		var out []tensor.Spec
		for i, s := range of {
			dt, ok := dtypeOf[s.DType]
			if !ok {
				return nil, fmt.Errorf("%s %q has datatype %v, which this backend does not take", kind, names[i], s.DType)
			}
			spec := tensor.Spec{Name: names[i], DType: dt, Row: tensor.Shape{}}
			for _, d := range s.Dimensions {
				spec.Row = append(spec.Row, int64(d))
			}
			if m.sig.Batched {
				spec.Row = spec.Row[1:]
			}
			out = append(out, spec)
		}
		return out, nil
	}
	var err error
	if m.sig.Inputs, err = specs("input", inNames, ins); err != nil {
		return err
	}
	if m.sig.Outputs, err = specs("output", outNames, outs); err != nil {
		return err
	}
	if m.opts.FixedBatch > 0 && !m.sig.Batched {
		return errors.New("fixed_batch needs a model that takes batches; this one takes one row per request")
	}
	return m.sig.Validate()
}

// dtypeOf are the datatypes that both sides know.
var dtypeOf = map[dtypes.DType]tensor.DType{
	dtypes.Bool: tensor.Bool, dtypes.Uint8: tensor.Uint8, dtypes.Uint16: tensor.Uint16, dtypes.Uint32: tensor.Uint32,
	dtypes.Uint64: tensor.Uint64, dtypes.Int8: tensor.Int8, dtypes.Int16: tensor.Int16, dtypes.Int32: tensor.Int32,
	dtypes.Int64: tensor.Int64, dtypes.Float16: tensor.FP16, dtypes.BFloat16: tensor.BF16, dtypes.Float32: tensor.FP32,
	dtypes.Float64: tensor.FP64,
}

var whole = map[tensor.DType]bool{
	tensor.Uint8: true, tensor.Uint16: true, tensor.Uint32: true, tensor.Uint64: true,
	tensor.Int8: true, tensor.Int16: true, tensor.Int32: true, tensor.Int64: true,
}

var engineType = func() map[tensor.DType]dtypes.DType {
	out := map[tensor.DType]dtypes.DType{}
	for theirs, ours := range dtypeOf {
		out[ours] = theirs
	}
	return out
}()

// probe runs one row. Its values are zeros, but ones in inputs of integers that are not indices,
// because the model may divide by them. A row with dimensions of any size is not run. Its graph is
// built with these dimensions at 1, and the only error is an operator that GoMLX does not have at
// all: anything else may be due to the size, which the model need not support.
func (m *Model) probe(ctx context.Context) error {
	inputs := make([]tensor.Tensor, len(m.sig.Inputs))
	open := false
	for i, spec := range m.sig.Inputs {
		row := slices.Clone(spec.Row)
		for d := range row {
			if row[d] == tensor.Dynamic {
				row[d], open = 1, true
			}
		}
		n, err := row.Elements()
		if err != nil {
			return nil // the row is too large to be run
		}
		inputs[i] = tensor.Tensor{Name: spec.Name, DType: spec.DType, Raw: make([]byte, int(n)*spec.DType.Size())}
		if _, indices := m.limits[spec.Name]; !indices && whole[spec.DType] {
			for at := 0; at < len(inputs[i].Raw); at += spec.DType.Size() {
				inputs[i].Raw[at] = 1
			}
		}
		if m.sig.Batched {
			inputs[i].Shape = tensor.Shape{1}
		}
		inputs[i].Shape = append(inputs[i].Shape, row...)
	}
	_, err := m.run(ctx, inputs, !open, true)
	if e, ok := errors.AsType[*unsupported](err); open && !(ok && e.missing) {
		return nil
	}
	return err
}

// Signature implements backend.Model.
func (m *Model) Signature() tensor.Signature { return m.sig }

// Instances implements backend.Model.
func (m *Model) Instances() int { return m.opts.Instances }

// Close implements backend.Model.
func (m *Model) Close() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("onnx: close: %v", p)
		}
	}()
	m.graphs.close()
	m.weights.Finalize()
	if m.engine != nil {
		m.engine.Finalize()
	}
	return m.model.Close()
}

// Run implements backend.Model. A batch that has started is not interrupted.
func (m *Model) Run(ctx context.Context, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	return m.run(ctx, inputs, true, false)
}

// run builds the graph for a batch, unless it exists, and runs it if execute is true. If a probe
// fails, the error names the operator at fault, since the content of the batch is not.
func (m *Model) run(ctx context.Context, inputs []tensor.Tensor, execute, probe bool) (_ []tensor.Tensor, err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if len(inputs) != len(m.sig.Inputs) {
		return nil, fmt.Errorf("onnx: %d inputs; the model has %s", len(inputs), tensor.List(m.sig.Inputs))
	}
	// GoMLX's functions report errors by panics.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("onnx: %v", p)
		}
	}()
	rows, padded := int64(1), int64(1)
	if m.sig.Batched {
		rows = inputs[0].Shape[0]
		if padded, err = m.padded(rows); err != nil {
			return nil, err
		}
	}
	var held []*tensors.Tensor
	defer func() {
		for _, t := range held {
			_ = t.FinalizeAll()
		}
	}()
	args := make([]any, len(inputs))
	for i := range inputs {
		if want := m.sig.Inputs[i]; inputs[i].DType != want.DType {
			return nil, fmt.Errorf("onnx: input %q is %s; the model takes %s", want.Name, inputs[i].DType, want)
		}
		if err := m.check(&inputs[i]); err != nil {
			return nil, err
		}
		t, err := m.upload(&inputs[i], padded)
		if err != nil {
			return nil, fmt.Errorf("onnx: input %q: %w", inputs[i].Name, err)
		}
		held = append(held, t)
		args[i] = t
	}
	g, err := m.graphs.take(inputs, m.sig.Batched, padded)
	if err != nil {
		return nil, fmt.Errorf("onnx: %w", err)
	}
	defer m.graphs.give(g)
	if err := m.compile(g, args); err != nil {
		return nil, fmt.Errorf("onnx: %w", err)
	}
	if !execute {
		return nil, nil
	}
	results, err := runGraph(g.exec, args)
	held = append(held, results...)
	if err != nil && probe {
		err = m.unsupported(err, func(exec *mlcontext.Exec) error {
			results, err := runGraph(exec, args)
			held = append(held, results...)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("onnx: %w", err)
	}
	if len(results) != len(m.sig.Outputs) {
		return nil, fmt.Errorf("onnx: the model gave %d results for %d outputs", len(results), len(m.sig.Outputs))
	}
	outputs := make([]tensor.Tensor, len(results))
	for i, t := range results {
		if outputs[i], err = m.download(t, m.sig.Outputs[i], rows, padded); err != nil {
			return nil, fmt.Errorf("onnx: output %q: %w", m.sig.Outputs[i].Name, err)
		}
	}
	return outputs, nil
}

// padded returns the number of rows with which a batch of the given size is run.
func (m *Model) padded(rows int64) (int64, error) {
	switch {
	case rows < 1 || rows > 1<<30:
		return 0, fmt.Errorf("onnx: a batch of %d rows cannot be run", rows)
	case m.opts.FixedBatch == 0:
		return 1 << bits.Len64(uint64(rows-1)), nil
	case rows > int64(m.opts.FixedBatch):
		return 0, fmt.Errorf("onnx: a batch of %d rows; fixed_batch is %d", rows, m.opts.FixedBatch)
	}
	return int64(m.opts.FixedBatch), nil
}

// check refuses an input that would end the process or give a wrong answer: one without elements,
// or with an index that is out of range.
func (m *Model) check(in *tensor.Tensor) error {
	if len(in.Raw) == 0 {
		// The other dimensions are not bounded then. The process would end when the model
		// allocates memory for them.
		return &backend.TensorError{Input: in.Name, Err: fmt.Errorf("onnx: shape %v has no elements", in.Shape)}
	}
	limit, ok := m.limits[in.Name]
	if !ok || in.DType != tensor.Int32 && in.DType != tensor.Int64 {
		return nil // the model itself converts indices of another datatype
	}
	size := in.DType.Size()
	row := len(in.Raw)
	if m.sig.Batched {
		row /= int(in.Shape[0])
	}
	var bad []int
	var first int64
	for at := 0; at < len(in.Raw); at += size {
		var index int64
		if size == 4 {
			index = int64(int32(binary.LittleEndian.Uint32(in.Raw[at:])))
		} else {
			index = int64(binary.LittleEndian.Uint64(in.Raw[at:]))
		}
		if n := at / row; (index < -limit || index >= limit) && (len(bad) == 0 || bad[len(bad)-1] != n) {
			if len(bad) == 0 {
				first = index
			}
			bad = append(bad, n)
		}
	}
	if bad != nil {
		return &backend.RowsError{Rows: bad, Input: in.Name, Err: fmt.Errorf("onnx: the index %d is out of range; there are %d entries", first, limit)}
	}
	return nil
}

// upload copies an input into a tensor of the engine, and pads it with copies of the last row.
func (m *Model) upload(in *tensor.Tensor, padded int64) (*tensors.Tensor, error) {
	dims := make([]int, len(in.Shape))
	for i, d := range in.Shape {
		dims[i] = int(d)
	}
	if m.sig.Batched {
		dims[0] = int(padded)
	}
	t, err := tensors.FromShapeForBackend(m.engine, 0, shapes.Make(engineType[in.DType], dims...))
	if err != nil {
		return nil, err
	}
	copied := 0
	if err := t.MutableBytes(func(b []byte) {
		copied = copy(b, in.Raw)
		if m.sig.Batched && padded > in.Shape[0] {
			// Rows of zeros would not do: the model may fail on them.
			last := in.Raw[len(in.Raw)-len(in.Raw)/int(in.Shape[0]):]
			for rest := b[copied:]; len(rest) > 0; {
				rest = rest[copy(rest, last):]
			}
		}
	}); err != nil {
		return nil, err
	}
	if copied != len(in.Raw) {
		return nil, fmt.Errorf("%d bytes for shape %v", len(in.Raw), in.Shape)
	}
	return t, nil
}

// download copies the first rows of a result.
func (m *Model) download(t *tensors.Tensor, spec tensor.Spec, rows, padded int64) (tensor.Tensor, error) {
	out := tensor.Tensor{Name: spec.Name, DType: spec.DType}
	s := t.Shape()
	if s.DType != engineType[spec.DType] {
		return out, fmt.Errorf("the model answered datatype %v", s.DType)
	}
	for _, d := range s.Dimensions {
		out.Shape = append(out.Shape, int64(d))
	}
	if m.sig.Batched {
		if len(out.Shape) == 0 || out.Shape[0] != padded {
			return out, fmt.Errorf("the model answered shape %v for a batch of %d rows", out.Shape, padded)
		}
		out.Shape[0] = rows
	}
	n, err := out.Shape.Elements()
	if err != nil {
		return out, err
	}
	size := int(n) * spec.DType.Size()
	short := false
	err = t.ConstBytes(func(b []byte) {
		if short = len(b) < size; !short {
			out.Raw = slices.Clone(b[:size])
		}
	})
	if short {
		err = fmt.Errorf("the model answered fewer bytes than shape %v has", out.Shape)
	}
	return out, err
}
