package mock

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/tensor"
)

// Loader loads the models of locations as the package comment describes them,
// and takes LoadTime for it.
func Loader() backend.Loader { return loader{} }

type loader struct{}

// Check implements backend.Checker.
func (loader) Check(loc backend.Location) error {
	_, err := ConfigOf(loc)
	return err
}

func (loader) Load(ctx context.Context, loc backend.Location) (backend.Model, error) {
	cfg, err := ConfigOf(loc)
	if err != nil {
		return nil, err
	}
	cfg.NoWarmUp = true
	return Load(ctx, cfg)
}

// Load makes the model of cfg after its LoadTime, or fails with its LoadError.
func Load(ctx context.Context, cfg Config) (*Model, error) {
	m, err := New(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.LoadTime > 0 {
		t := time.NewTimer(cfg.LoadTime)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if cfg.LoadError != "" {
		return nil, errors.New("mock: " + cfg.LoadError)
	}
	return m, nil
}

// ConfigOf reads the configuration of a location.
func ConfigOf(loc backend.Location) (Config, error) {
	if err := loc.CheckOptions("input", "output", "batched", "max_batch", "instances", "latency", "jitter", "seed",
		"load_time", "load_error", "fault"); err != nil {
		return Config{}, fmt.Errorf("mock: %w", err)
	}
	cfg := Config{Function: loc.Path, Output: loc.Options.Get("output"), LoadError: loc.Options.Get("load_error")}
	for _, s := range loc.Options["input"] {
		spec, err := ParseSpec(s)
		if err != nil {
			return Config{}, fmt.Errorf("mock: %w", err)
		}
		cfg.Inputs = append(cfg.Inputs, spec)
	}
	for _, s := range loc.Options["fault"] {
		f, err := ParseFault(s)
		if err != nil {
			return Config{}, fmt.Errorf("mock: %w", err)
		}
		cfg.Faults = append(cfg.Faults, f)
	}
	batched := true
	var err error
	option := func(name string, parse func(string) error) {
		if s := loc.Options.Get(name); s != "" && err == nil {
			if failed := parse(s); failed != nil {
				err = fmt.Errorf("mock: option %s=%s: %w", name, s, failed)
			}
		}
	}
	duration := func(to *time.Duration) func(string) error {
		return func(s string) (err error) { *to, err = time.ParseDuration(s); return }
	}
	number := func(to *int) func(string) error {
		return func(s string) (err error) { *to, err = strconv.Atoi(s); return }
	}
	option("batched", func(s string) (err error) { batched, err = strconv.ParseBool(s); return })
	option("max_batch", number(&cfg.MaxBatch))
	option("instances", number(&cfg.Instances))
	option("latency", func(s string) error {
		base, perRow, both := strings.Cut(s, "+")
		if err := duration(&cfg.Latency)(base); err != nil || !both {
			return err
		}
		return duration(&cfg.PerRow)(perRow)
	})
	option("jitter", duration(&cfg.Jitter))
	option("seed", func(s string) (err error) { cfg.Seed, err = strconv.ParseUint(s, 10, 64); return })
	option("load_time", duration(&cfg.LoadTime))
	cfg.Unbatched = !batched
	return cfg, err
}

// ParseSpec reads the description of an input, NAME:DTYPE[d,d]; a dimension of
// -1 may have any size, and without brackets a row is one element.
func ParseSpec(s string) (tensor.Spec, error) {
	refuse := func(err error) (tensor.Spec, error) {
		return tensor.Spec{}, fmt.Errorf("tensor %q: %w; want NAME:DTYPE[d,d], as x:FP32[4]", s, err)
	}
	i := strings.LastIndexByte(s, ':')
	if i < 1 {
		return refuse(errors.New("no name"))
	}
	name, rest := s[:i], s[i+1:]
	dtype, dims, hasDims := strings.Cut(rest, "[")
	dt, err := tensor.ParseDType(dtype)
	if err != nil {
		return refuse(err)
	}
	spec := tensor.Spec{Name: name, DType: dt, Row: tensor.Shape{}}
	if !hasDims {
		return spec, nil
	}
	dims, closed := strings.CutSuffix(dims, "]")
	if !closed {
		return refuse(errors.New("no closing bracket"))
	}
	for d := range strings.SplitSeq(dims, ",") {
		if dims == "" {
			break
		}
		n, err := strconv.ParseInt(strings.TrimSpace(d), 10, 64)
		if err != nil || n < -1 {
			return refuse(fmt.Errorf("%q is not a dimension (0 or higher, or -1 for any size)", d))
		}
		spec.Row = append(spec.Row, n)
	}
	return spec, nil
}
