//go:build cgo && !windows

package ort

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"

	rt "github.com/yalue/onnxruntime_go"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/tensor"
)

// A process can load one library, and creates its environment once. The environment is never
// destroyed.
var opened struct {
	sync.Mutex
	lib *Library
}

// Open loads the library that Find(file) returns. The library stays loaded for the life of the
// process. A further Open returns the same library, or an error if it asks for another file. It is
// safe for concurrent use.
func Open(file string) (*Library, error) {
	path, err := Find(file)
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	opened.Lock()
	defer opened.Unlock()
	if opened.lib != nil {
		if opened.lib.Path != path {
			return nil, fmt.Errorf("ONNX Runtime is loaded from %s already; a process cannot load %s as well", opened.lib.Path, path)
		}
		return opened.lib, nil
	}
	if err := check(path); err != nil {
		return nil, err
	}
	rt.SetSharedLibraryPath(path)
	if err := rt.InitializeEnvironment(); err != nil {
		return nil, fmt.Errorf("%s cannot be used (this program needs ONNX Runtime 1.26 or newer): %w", path, err)
	}
	opened.lib = &Library{Path: path, Version: rt.GetVersion()}
	return opened.lib, nil
}

// Load reads the model from a file. It then runs the model once, unless the model's rows have
// strings or dimensions of any size. Reading the file ignores ctx.
func (l *Library) Load(ctx context.Context, path string, opts Options) (backend.Model, error) {
	cuda, err := opts.normal()
	if err != nil {
		return nil, err
	}
	m := &model{opts: opts}
	if err := m.open(path, cuda); err != nil {
		return nil, errors.Join(fmt.Errorf("ort: %s: %w", path, err), m.Close())
	}
	if ctx.Err() != nil {
		return nil, errors.Join(context.Cause(ctx), m.Close())
	}
	if err := m.probe(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("ort: %s cannot be run: %w", path, err), m.Close())
	}
	return m, nil
}

func (m *model) open(path string, cuda int) error {
	so, err := rt.NewSessionOptions()
	if err != nil {
		return err
	}
	defer so.Destroy()
	if err := errors.Join(so.SetIntraOpNumThreads(m.opts.Threads), so.SetInterOpNumThreads(1)); err != nil {
		return err
	}
	if cuda >= 0 {
		if err := useCUDA(so, cuda); err != nil {
			return fmt.Errorf("device=%s: CUDA is not available in this library or on this machine; use a build of ONNX Runtime for CUDA, or device=cpu: %w", m.opts.Device, err)
		}
	}
	// The session needs the names of the inputs and outputs, so the model is read twice.
	ins, outs, err := rt.GetInputOutputInfoWithOptions(path, so)
	if err != nil {
		return err
	}
	if err := m.describe(path, ins, outs); err != nil {
		return err
	}
	names := func(specs []tensor.Spec) (out []string) {
		for _, s := range specs {
			out = append(out, s.Name)
		}
		return out
	}
	m.session, err = rt.NewDynamicAdvancedSession(path, names(m.sig.Inputs), names(m.sig.Outputs), so)
	return err
}

func useCUDA(so *rt.SessionOptions, device int) error {
	o, err := rt.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer o.Destroy()
	if err := o.Update(map[string]string{"device_id": strconv.Itoa(device)}); err != nil {
		return err
	}
	return so.AppendExecutionProviderCUDA(o)
}

// describe reads the signature. The rule is that of the backend in pure Go: a model is batched if
// the first dimension of each input and output may have any size.
func (m *model) describe(path string, ins, outs []rt.InputOutputInfo) error {
	if len(ins) == 0 || len(outs) == 0 {
		return fmt.Errorf("the model has %d inputs and %d outputs; both are needed", len(ins), len(outs))
	}
	m.sig = tensor.Signature{Model: path, Batched: true, MaxBatch: m.opts.MaxBatch}
	for _, of := range [][]rt.InputOutputInfo{ins, outs} {
		for _, s := range of {
			if len(s.Dimensions) == 0 || s.Dimensions[0] >= 0 {
				m.sig.Batched = false
			}
		}
	}
	specs := func(kind string, of []rt.InputOutputInfo) ([]tensor.Spec, error) {
		var out []tensor.Spec
		for _, s := range of {
			dt, ok := dtypeOf[s.DataType]
			if s.OrtValueType != rt.ONNXTypeTensor || !ok {
				return nil, fmt.Errorf("%s %v: this backend does not take this type", kind, s.String())
			}
			if len(s.Dimensions) == 0 {
				return nil, fmt.Errorf("%s %q has no dimensions, which this backend does not take", kind, s.Name)
			}
			spec := tensor.Spec{Name: s.Name, DType: dt, Row: tensor.Shape{}}
			for _, d := range s.Dimensions {
				spec.Row = append(spec.Row, max(d, -1))
			}
			if m.sig.Batched {
				spec.Row = spec.Row[1:]
			}
			if _, err := spec.Row.Elements(); err != nil && kind == "output" && (dt == tensor.FP16 || dt == tensor.BF16) {
				return nil, fmt.Errorf("output %q is %v of any size, which this backend does not take", s.Name, dt)
			}
			out = append(out, spec)
		}
		return out, nil
	}
	var err error
	if m.sig.Inputs, err = specs("input", ins); err != nil {
		return err
	}
	if m.sig.Outputs, err = specs("output", outs); err != nil {
		return err
	}
	if m.opts.FixedBatch > 0 && !m.sig.Batched {
		return errors.New("fixed_batch needs a model that takes batches; this one takes one row per request")
	}
	return m.sig.Validate()
}

// dtypeOf are the datatypes that both sides know.
var dtypeOf = map[rt.TensorElementDataType]tensor.DType{
	rt.TensorElementDataTypeBool: tensor.Bool, rt.TensorElementDataTypeUint8: tensor.Uint8, rt.TensorElementDataTypeUint16: tensor.Uint16,
	rt.TensorElementDataTypeUint32: tensor.Uint32, rt.TensorElementDataTypeUint64: tensor.Uint64, rt.TensorElementDataTypeInt8: tensor.Int8,
	rt.TensorElementDataTypeInt16: tensor.Int16, rt.TensorElementDataTypeInt32: tensor.Int32, rt.TensorElementDataTypeInt64: tensor.Int64,
	rt.TensorElementDataTypeFloat16: tensor.FP16, rt.TensorElementDataTypeBFloat16: tensor.BF16, rt.TensorElementDataTypeFloat: tensor.FP32,
	rt.TensorElementDataTypeDouble: tensor.FP64, rt.TensorElementDataTypeString: tensor.Bytes,
}

var engineType = func() map[tensor.DType]rt.TensorElementDataType {
	out := map[tensor.DType]rt.TensorElementDataType{}
	for theirs, ours := range dtypeOf {
		out[ours] = theirs
	}
	return out
}()
