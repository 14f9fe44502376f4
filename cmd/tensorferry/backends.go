package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tensorferry/tensorferry/job/embedded"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/onnx"
	"github.com/tensorferry/tensorferry/sidecar/backend/ort"
)

// choice has the values of --backend and --ort-lib.
type choice struct {
	backend string // auto, ort or onnx
	ortLib  string
}

// registry returns the kinds of model that a sidecar runs. With "ort", or with a named library, it
// loads the library now, so that an error shows at once.
func (c choice) registry(log *slog.Logger) (backend.Registry, error) {
	r := embedded.Backends()
	withOrt := ort.Loader(c.ortLib)
	r.Schemes["ort"] = withOrt
	switch c.backend {
	case "onnx":
		return r, nil
	case "ort", "auto":
	default:
		return r, fmt.Errorf("--backend %q: want auto, ort or onnx", c.backend)
	}
	lib, err := ort.Open(c.ortLib)
	if err != nil && (c.backend == "ort" || c.ortLib != "") {
		return r, err
	}
	a := auto{ort: withOrt, onnx: onnx.Loader(), missing: err, only: c.backend == "ort", log: log}
	if lib != nil {
		a.library = lib.String()
	}
	r.Extensions[".onnx"] = a
	return r, nil
}

// auto loads a model in ONNX Runtime if the library is there and can load it, and otherwise in pure
// Go. It logs the choice and the reason.
type auto struct {
	ort, onnx backend.Loader
	library   string // the library that was opened
	missing   error  // why no library was opened, or nil
	only      bool   // never use pure Go
	log       *slog.Logger
}

// Load implements backend.Loader.
func (a auto) Load(ctx context.Context, loc backend.Location) (backend.Model, error) {
	// Only ONNX Runtime has these options, so they choose it.
	needsOrt := loc.Options.Has("device") || loc.Options.Has("threads")
	if a.missing != nil {
		if needsOrt {
			return nil, fmt.Errorf("the options device and threads need ONNX Runtime: %w", a.missing)
		}
		m, err := a.onnx.Load(ctx, loc)
		if err == nil {
			a.log.Info("backend chosen", "file", loc.Path, "backend", "pure Go", "why", a.missing.Error())
		}
		return m, err
	}
	m, err := a.ort.Load(ctx, loc)
	if err == nil {
		device := loc.Options.Get("device")
		if device == "" {
			device = "cpu"
		}
		a.log.Info("backend chosen", "file", loc.Path, "backend", a.library, "device", device)
		return m, nil
	}
	if a.only || needsOrt || ctx.Err() != nil {
		return nil, err
	}
	m, goErr := a.onnx.Load(ctx, loc)
	if goErr != nil {
		return nil, errors.Join(err, goErr)
	}
	a.log.Warn("backend chosen", "file", loc.Path, "backend", "pure Go", "why", fmt.Sprintf("%s cannot load the model: %v", a.library, err))
	return m, nil
}
