package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

// record is what the jobs of this command are made of: one JSON object, as its
// line had it.
type record = json.RawMessage

// function is the model as a job file describes it.
type function = sidecar.AsyncFunction[record, record]

// newFunction makes the function of a job. endpoint is where the sidecar
// listens. The error is a job.Fault.
func newFunction(spec *job.Spec, endpoint string) (*function, error) {
	i := &spec.Infer
	cfg := sidecar.Config{
		Endpoint: endpoint, Model: i.Model, Version: i.Version,
		MaxBatch: i.MaxBatch, Window: i.Window, MaxMessageSize: i.MaxMessage,
		NonIdempotent: i.NotIdempotent,
	}
	if i.TLS != nil {
		var err error
		if cfg.TLS, err = loadTLS(spec); err != nil {
			return nil, err
		}
	}
	if err := cfg.Validate(); err != nil {
		return nil, spec.Fault("infer", "%v", err)
	}
	m := mapping(i)
	if err := m.Validate(); err != nil {
		return nil, spec.Fault("infer.inputs", "%v", err)
	}
	return sidecar.NewAsyncFunction(cfg, jsoncodec.New(m)), nil
}

func mapping(i *job.Infer) jsoncodec.Mapping {
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
		m.Outputs[name] = jsoncodec.Output{Field: f.Field}
	}
	return m
}

func loadTLS(spec *job.Spec) (*tls.Config, error) {
	t := spec.Infer.TLS
	cfg := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, spec.Fault("infer.tls.ca", "%v", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, spec.Fault("infer.tls.ca", "%s holds no certificate in PEM form", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, spec.Fault("infer.tls.cert", "the certificate %s with the key %s: %v", t.Cert, t.Key, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// checkEndpoint says what is wrong with an endpoint of the file.
func checkEndpoint(spec *job.Spec) error {
	if spec.Infer.Endpoint == "" {
		return nil
	}
	ep, err := endpoint.Parse(spec.Infer.Endpoint)
	switch {
	case err != nil:
		return spec.Fault("infer.endpoint", "%v", err)
	case ep.IsUnix() && spec.Infer.TLS != nil:
		return spec.Fault("infer.tls", "want none on the Unix socket %s; TLS is for TCP", spec.Infer.Endpoint)
	case spec.Sidecar != nil && spec.Infer.TLS != nil:
		return spec.Fault("infer.tls", "want none, since the job's own sidecar speaks no TLS")
	}
	return nil
}

func order(i *job.Infer) async.Order {
	if i.Ordered {
		return async.Ordered
	}
	return async.Unordered
}

// operatorConfig is the operator's part of the infer section. The error is a
// job.Fault.
func operatorConfig(spec *job.Spec) (async.Config, error) {
	i := &spec.Infer
	cfg := async.Config{
		Capacity: i.Capacity, MaxCalls: i.MaxCalls, Timeout: i.Timeout, Hold: i.Hold,
		Retry: async.Retry{Max: i.Retry.Max, Delay: i.Retry.Delay, Multiplier: i.Retry.Multiplier, MaxDelay: i.Retry.MaxDelay},
	}
	if i.Timeout == job.Never {
		cfg.Timeout = async.NoTimeout
	}
	if i.Retry.Max == job.None {
		cfg.Retry.Max = async.NoRetry
	}
	switch i.Barrier {
	case job.BarrierDrain:
		cfg.Checkpoint = async.Drain
	case job.BarrierSnapshot:
		cfg.Checkpoint = async.Snapshot
	}
	if _, err := cfg.Resolve(order(i)); err != nil {
		return cfg, spec.Fault("infer", "%v", err)
	}
	return cfg, nil
}

// identity is what a run and its resumption must have in common. Whether the files
// of the source are still what they were is the source's own to say.
func identity(spec *job.Spec) []checkpoint.Property {
	i := &spec.Infer
	source := "standard input"
	if f := spec.Source.File; f != nil {
		source = strings.Join(f.Paths, ", ")
	}
	return []checkpoint.Property{
		{Name: "source", Value: source},
		{Name: "order", Value: order(i).String()},
		{Name: "model", Value: i.Model},
		{Name: "version", Value: i.Version},
		{Name: "fields", Value: mapping(i).String()},
		{Name: "overwrite", Value: fmt.Sprint(i.Overwrite)},
		{Name: "sink", Value: sinkPlace(spec)},
	}
}

// sinkPlace names where the results go.
func sinkPlace(spec *job.Spec) string {
	if spec.Sink.Stdout {
		return "standard output"
	}
	return spec.Sink.File.Path
}
