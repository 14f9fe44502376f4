package main

import (
	"fmt"
	"log/slog"

	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/internal/otlptrace"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
)

// tracesOf is the trace section of a job. The error is a job.Fault.
func tracesOf(spec *job.Spec, log *slog.Logger) (cfg otlptrace.Config, err error) {
	t := spec.Trace
	cfg = otlptrace.Config{
		Endpoint: t.Endpoint, Headers: t.Headers, Sample: t.Sample, Logger: log,
		Service: "tensorferry", Version: cli.Version(), Attributes: map[string]string{"tensorferry.job": spec.Name},
	}
	if t.TLS != nil {
		if cfg.TLS, err = spec.LoadTLS(t.TLS, "trace.tls"); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// startTraces starts what sends the spans of a job; it is nil if the job has none.
func startTraces(spec *job.Spec, log *slog.Logger) (*otlptrace.Exporter, error) {
	if spec.Trace == nil {
		return nil, nil
	}
	cfg, err := tracesOf(spec, log)
	if err != nil {
		return nil, err
	}
	e, err := otlptrace.New(cfg)
	if err != nil {
		return nil, spec.Fault("trace", "%v", err)
	}
	log.Info("traces", "endpoint", cfg.Endpoint, "sample", cfg.Sample)
	return e, nil
}

// sidecarTraces starts what sends the spans of a sidecar. It begins no traces of its own.
func sidecarTraces(address string, log *slog.Logger) (*otlptrace.Exporter, error) {
	if ep, err := endpoint.Parse(address); err != nil || ep.IsUnix() {
		return nil, fmt.Errorf("--trace %q: want host:port", address)
	}
	e, err := otlptrace.New(otlptrace.Config{Endpoint: address, Service: "tensorferry-sidecar", Version: cli.Version(), Logger: log})
	if err != nil {
		return nil, fmt.Errorf("--trace: %w", err)
	}
	return e, nil
}
