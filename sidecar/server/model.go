package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/sidecar/backend"
)

// model is one loaded version of a model. It never changes: loading the model again makes another
// one. A request holds a lease on the model that answers it. A model is closed when it takes no
// more requests and its last lease was released.
type model struct {
	name, version string
	metrics       *modelMetrics
	runner        *runner
	family        *family

	// Under the family's lock.
	leases  int
	retired bool
	unused  chan struct{} // closed when it is retired and has no lease
}

// release ends a lease.
func (m *model) release() {
	m.family.mu.Lock()
	defer m.family.mu.Unlock()
	m.leases--
	m.checkUnused()
}

// checkUnused must be called with the family's lock held.
func (m *model) checkUnused() {
	if m.retired && m.leases == 0 {
		close(m.unused)
	}
}

// loadModel loads one version and warms it up. It never panics.
func (s *Server) loadModel(ctx context.Context, f *family, spec Model) (*model, error) {
	began := time.Now()
	log := s.cfg.Logger.With("model", f.name, "version", spec.Version)
	log.Info("loading model", "location", spec.Location)
	loaded, err := s.loadBackend(ctx, f.name, spec)
	if err != nil {
		return nil, err
	}
	known, err := vet(loaded)
	if err != nil {
		_ = closeModel(loaded)
		return nil, s.broke("the backend panicked while loading", err)
	}
	m := &model{name: f.name, version: spec.Version, family: f, metrics: s.metrics.of(f.name), unused: make(chan struct{})}
	m.runner = newRunner(&s.cfg, f.name, known, s.admission, m.metrics)
	// The server's configuration names the model, and not the model's file.
	m.runner.sig.Model, m.runner.sig.Version = m.name, m.version
	if err := s.warmUp(ctx, m); err != nil {
		_ = m.runner.close(context.Background())
		return nil, fmt.Errorf("warm-up: %w", err)
	}
	log.Info("model loaded", "signature", m.runner.sig.String(), "took", time.Since(began))
	return m, nil
}

func (s *Server) loadBackend(ctx context.Context, name string, spec Model) (loaded backend.Model, err error) {
	err = guard.Apart("Load of the backend", func() (err error) {
		if spec.Load != nil {
			loaded, err = spec.Load(ctx)
		} else {
			loaded, err = s.cfg.Backends.Load(ctx, spec.Location)
		}
		if err == nil && loaded == nil {
			err = errors.New("the backend's Load returned neither a model nor an error")
		}
		return err
	})
	if p, ok := errors.AsType[*guard.Panic](err); ok {
		s.cfg.Logger.Error("the backend panicked while loading", "model", name, "panic", guard.Brief(p), "stack", string(p.Stack))
		err = fmt.Errorf("the backend panicked while loading: %s", guard.Brief(p))
	}
	return loaded, err
}
