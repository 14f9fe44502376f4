// Package inference turns a job file's infer section into what any host runs: the model as an
// asynchronous function of JSON records ([NewFunction]), and the operator's configuration
// ([OperatorConfig]). Only hosts need it; package job/local is one. A job written in Go uses
// package sidecar directly. It knows no source, no sink and no host.
package inference

import (
	"encoding/json"
	"strings"
	"sync/atomic"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/kafkatopics"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/tensor"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

// Record is the record of a job that a file describes: one JSON object, with the bytes of its line.
type Record = json.RawMessage

// Function is the model as a job file describes it, with the fallback results that replace its
// answers. It is safe for concurrent use.
type Function struct {
	*sidecar.AsyncFunction[Record, Record]
	// NotNumbers counts the numbers in results that were NaN or infinite.
	NotNumbers atomic.Int64
	fallbacks  map[async.Class][]jsoncodec.Field
	overwrite  bool
	// check returns an error if the sink cannot take a result; nil: it takes any.
	check func(key string, result Record) error
}

// Fallback implements async.FallbackMaker.
func (f *Function) Fallback(failed async.Failed[Record]) (outs async.Outputs[Record], err error) {
	result, err := jsoncodec.Merge(failed.Record.Value, f.fallbacks[failed.Class], f.overwrite)
	if err == nil && f.check != nil {
		err = f.check(failed.Record.Key, result)
	}
	if err != nil {
		return outs, err
	}
	return async.One(result), nil
}

// NewFunction makes the function of a job. endpoint is where the sidecar listens. observe is called
// after each request to it, by several goroutines; it may be nil. The error is a job.Fault.
func NewFunction(spec *job.Spec, endpoint string, observe func(sidecar.Request)) (*Function, error) {
	cfg, err := ClientConfig(spec, endpoint)
	if err != nil {
		return nil, err
	}
	cfg.Observe = observe
	return FunctionOf(spec, cfg)
}

// ClientConfig returns the configuration of the connections to the sidecar that listens at
// endpoint. The error is a job.Fault.
func ClientConfig(spec *job.Spec, endpoint string) (cfg sidecar.Config, err error) {
	i := &spec.Infer
	cfg = clientConfig(i)
	cfg.Endpoint = endpoint
	if i.TLS != nil {
		if cfg.TLS, err = spec.LoadTLS(i.TLS, "infer.tls"); err != nil {
			return cfg, err
		}
	}
	if t := i.Tensors; t != nil {
		sig, err := tensor.NewSignature(i.Model, i.Version, t.Inputs, t.Outputs)
		if err != nil {
			return cfg, spec.Fault("infer.tensors", "%v", err)
		}
		cfg.Signature = &sig
	}
	return cfg, nil
}

// FunctionOf makes the function of a job whose connections have the configuration cfg, which is
// that of ClientConfig with any changes. The error is a job.Fault.
func FunctionOf(spec *job.Spec, cfg sidecar.Config) (*Function, error) {
	i := &spec.Infer
	if err := cfg.Validate(); err != nil {
		return nil, spec.Fault("infer", "%v", err)
	}
	m := Mapping(i)
	if k := spec.Source.Kafka; k != nil && k.Meta != "" {
		m.Reserved = []string{k.Meta}
	}
	if err := m.Validate(); err != nil {
		return nil, spec.Fault("infer.inputs", "%v", err)
	}
	f := &Function{fallbacks: map[async.Class][]jsoncodec.Field{}, overwrite: i.Overwrite}
	m.NotNumbers = &f.NotNumbers
	if k := spec.Sink.Kafka; k != nil {
		f.check = kafkatopics.Checker(k)
		f.AsyncFunction = sidecar.NewRecordFunction(cfg, checked{jsoncodec.New(m), f.check})
	} else {
		f.AsyncFunction = sidecar.NewAsyncFunction(cfg, jsoncodec.New(m))
	}
	for class := async.Backend; class <= async.Permanent; class++ {
		for _, field := range i.OnError[class.String()].Fields {
			f.fallbacks[class] = append(f.fallbacks[class], jsoncodec.Field{Name: field.Name, Value: field.Value})
		}
	}
	return f, nil
}

// clientConfig returns the part of the client's configuration that the infer section alone says.
func clientConfig(i *job.Infer) sidecar.Config {
	return sidecar.Config{
		Model: i.Model, Version: i.Version, NonIdempotent: i.NotIdempotent, OpenTimeout: i.OpenTimeout,
		MaxBatch: i.MaxBatch, MaxBytes: i.MaxBatchBytes, Window: i.Window, MaxMessageSize: i.MaxMessage,
		SharedMemory: i.SharedMemory, SharedMemoryMin: i.SharedMemoryMin,
		Backoff: sidecar.Backoff{
			Base: i.Reconnect.Delay, Max: i.Reconnect.MaxDelay, Factor: i.Reconnect.Multiplier, Jitter: jitter(i.Reconnect.Jitter),
		},
	}
}

// jitter returns a share in the form of a configuration in Go, where 0 means the default.
func jitter(share *float64) float64 {
	switch {
	case share == nil:
		return 0
	case *share == 0:
		return async.Off
	}
	return *share
}

var nans = map[job.NaN]jsoncodec.NaN{
	job.NaNNull: jsoncodec.NaNNull, job.NaNFail: jsoncodec.NaNFail, job.NaNString: jsoncodec.NaNString,
}

// Mapping returns which fields of a record are inputs and outputs of the model.
func Mapping(i *job.Infer) jsoncodec.Mapping {
	m := jsoncodec.Mapping{Overwrite: i.Overwrite}
	if len(i.Inputs) > 0 {
		m.Inputs = map[string]jsoncodec.Input{}
	}
	for name, f := range i.Inputs {
		m.Inputs[name] = jsoncodec.Input{Field: f.Field}
	}
	if len(i.Outputs) > 0 {
		m.Outputs = map[string]jsoncodec.Output{}
	}
	for name, f := range i.Outputs {
		to := jsoncodec.Output{Field: f.Field, NaN: nans[f.NaN]}
		if to.Field == name {
			to.Field = "" // the output's own name, even if it contains dots
		}
		m.Outputs[name] = to
	}
	return m
}

// CheckEndpoint returns what is wrong with the endpoint in the file, as a job.Fault, or nil.
func CheckEndpoint(spec *job.Spec) error {
	if spec.Infer.Endpoint == "" {
		return nil
	}
	ep, err := endpoint.Parse(spec.Infer.Endpoint)
	switch {
	case err != nil:
		return spec.Fault("infer.endpoint", "%v", err)
	case ep.IsUnix() && spec.Infer.TLS != nil:
		return spec.Fault("infer.tls", "want no tls: TLS is for TCP, and %s is a Unix socket", spec.Infer.Endpoint)
	case spec.Sidecar != nil && !ep.Private():
		return spec.Fault("infer.endpoint", "the job's own sidecar does not speak TLS, and other machines may reach %s; "+
			"want a Unix socket or a loopback address, or a sidecar that runs apart from the job", spec.Infer.Endpoint)
	case spec.Sidecar != nil && spec.Infer.TLS != nil:
		return spec.Fault("infer.tls", "want no tls: the job's own sidecar does not speak TLS")
	}
	return nil
}

// OperatorConfig returns the operator's configuration from the infer section. The error is a
// job.Fault.
func OperatorConfig(spec *job.Spec) (async.Config, error) {
	i := &spec.Infer
	cfg := async.Config{
		Capacity: i.Capacity, MaxBytes: i.MaxBytes, MaxCalls: i.MaxCalls, Timeout: i.Timeout, Hold: i.Hold, DrainLimit: i.DrainLimit,
		Retry: async.Retry{Max: i.Retry.Max, Delay: i.Retry.Delay, Multiplier: i.Retry.Multiplier, MaxDelay: i.Retry.MaxDelay, Jitter: jitter(i.Retry.Jitter), Budget: i.Retry.Budget},
	}
	switch i.Order {
	case job.OrderUnordered:
		cfg.Order = async.Unordered
	case job.OrderKeyed:
		cfg.Order = async.Keyed
	}
	if i.MaxBytes == int64(job.Off) {
		cfg.MaxBytes = async.Off
	}
	if i.Timeout == job.Off {
		cfg.Timeout = async.Off
	}
	if i.Retry.Max == job.Off {
		cfg.Retry.Max = async.Off
	}
	if i.Retry.Budget == job.Off {
		cfg.Retry.Budget = async.Off
	}
	switch i.Barrier {
	case job.BarrierDrain:
		cfg.Barrier = async.Drain
	case job.BarrierSnapshot:
		cfg.Barrier = async.Snapshot
	}
	action := func(c async.Class) async.Action {
		switch i.OnError[c.String()].Action {
		case job.ActionDrop:
			return async.Drop
		case job.ActionFallback:
			return async.Fallback
		case job.ActionDeadLetter:
			return async.DeadLetter
		}
		return async.Fail
	}
	cfg.OnError = async.OnError{
		Backend: action(async.Backend), BadRecord: action(async.BadRecord), Timeout: action(async.Timeout),
		Overload: action(async.Overload), Transport: action(async.Transport), Permanent: action(async.Permanent),
	}
	if _, err := cfg.Resolve(); err != nil {
		return cfg, spec.Fault("infer", "%v", err)
	}
	return cfg, nil
}

// KeyOf returns a function that finds the key of a record. The key is empty if the record has none.
func KeyOf(i *job.Infer) func(Record) string {
	path := strings.Split(i.Key.Field, ".")
	return func(r Record) string {
		key, _ := jsoncodec.Scalar(r, path)
		return key
	}
}
