package local

import (
	"log/slog"

	"github.com/tensorferry/tensorferry/internal/otlptrace"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
)

// tracesOf returns the exporter's configuration from the trace section. The error is a job.Fault.
func tracesOf(spec *job.Spec, version string, log *slog.Logger) (cfg otlptrace.Config, err error) {
	t := spec.Trace
	cfg = otlptrace.Config{
		Endpoint: t.Endpoint, Headers: t.Headers, Sample: t.Sample, Logger: log,
		Service: "tensorferry", Version: version, Attributes: map[string]string{"tensorferry.job": spec.Name},
	}
	if t.TLS != nil {
		if cfg.TLS, err = spec.LoadTLS(t.TLS, "trace.tls"); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// startTraces starts the exporter of a job's spans. It is nil if the job has no trace section.
func startTraces(spec *job.Spec, version string, log *slog.Logger) (*otlptrace.Exporter, error) {
	if spec.Trace == nil {
		return nil, nil
	}
	cfg, err := tracesOf(spec, version, log)
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

// warnPlain warns of a connection in plaintext that leaves this machine.
func warnPlain(spec *job.Spec, log *slog.Logger) {
	e, err := endpoint.Parse(spec.Infer.Endpoint)
	if err == nil && spec.Sidecar == nil && spec.Infer.TLS == nil && !e.Private() {
		log.Warn("records and results go to the model server in plaintext, so anyone on the network between may read and change them unnoticed; "+
			"set infer.tls if the server has TLS", "endpoint", e.String())
	}
}
