package server

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// model is one model and how far it is.
type model struct {
	name, version string
	spec          Model
	metrics       *modelMetrics
	loaded        chan struct{} // closed when loading has ended, well or not

	mu     sync.Mutex
	runner *runner // nil while loading and after a failure
	failed error
}

// load loads the model. It never panics.
func (m *model) load(ctx context.Context, s *Server) {
	defer close(m.loaded)
	began := time.Now()
	s.cfg.Logger.Info("loading model", "model", m.name, "location", m.spec.Location)
	loaded, err := m.loadFrom(ctx, s)
	if err == nil {
		sig := loaded.Signature()
		if err = sig.Validate(); err == nil && loaded.Instances() < 1 {
			err = fmt.Errorf("the backend has %d instances", loaded.Instances())
		}
		if err != nil {
			closeModel(loaded)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.failed = fmt.Errorf("model %q: %w", m.name, err)
		s.cfg.Logger.Error("model failed to load", "model", m.name, "location", m.spec.Location, "error", err)
		return
	}
	m.runner = newRunner(&s.cfg, m.name, loaded, s.admission, m.metrics)
	// The name is the server's affair, not the file's.
	m.runner.sig.Model, m.runner.sig.Version = m.name, m.version
	s.cfg.Logger.Info("model loaded", "model", m.name, "signature", m.runner.sig.String(), "took", time.Since(began))
}

func (m *model) loadFrom(ctx context.Context, s *Server) (loaded backend.Model, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Logger.Error("the backend panicked while loading", "model", m.name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("the backend panicked while loading: %v", p)
		}
	}()
	if m.spec.Load != nil {
		return m.spec.Load(ctx)
	}
	return s.cfg.Backends.Load(ctx, m.spec.Location)
}

// ready returns the model's runner, or why there is none.
func (m *model) ready(version string, retry time.Duration) (*runner, *failure) {
	if version != "" && version != m.version {
		return nil, &failure{code: codes.FailedPrecondition, reason: oip.ReasonVersionMismatch, message: fmt.Sprintf(
			"model %q has version %q, not %q; ask for that one or for none", m.name, m.version, version)}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.runner != nil:
		return m.runner, nil
	case m.failed != nil:
		return nil, &failure{code: codes.FailedPrecondition, reason: oip.ReasonModelLoadFailed, message: m.failed.Error()}
	}
	return nil, &failure{code: codes.Unavailable, reason: oip.ReasonModelLoading, retry: retry,
		message: fmt.Sprintf("model %q is still loading", m.name)}
}

// close closes the model, once loading has ended.
func (m *model) close(ctx context.Context) error {
	select {
	case <-m.loaded:
	case <-ctx.Done():
		return fmt.Errorf("model %q does not stop loading", m.name)
	}
	m.mu.Lock()
	r := m.runner
	m.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.close(ctx)
}
