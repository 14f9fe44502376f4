package main

import (
	"fmt"
	"log/slog"

	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/internal/otlptrace"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
)

// sidecarTraces starts the exporter of a sidecar's spans. The sidecar begins no traces of its own.
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
