package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// repository is the models that the server has, or was asked for, by name.
type repository struct {
	folder *folder // nil: none

	mu       sync.RWMutex
	families map[string]*family
}

// newRepository notes what is to be loaded at the start. It does not load anything.
func newRepository(cfg *Config) (*repository, error) {
	repo := &repository{families: map[string]*family{}}
	for _, m := range cfg.Models {
		f := repo.families[m.Name]
		if f == nil {
			f = newFamily(m.Name)
			repo.families[m.Name] = f
		}
		f.specs, f.wanted = append(f.specs, m), true
	}
	if cfg.Repository == "" {
		return repo, nil
	}
	dir, err := filepath.Abs(cfg.Repository)
	if err != nil {
		return nil, fmt.Errorf("the model repository %q: %w", cfg.Repository, err)
	}
	repo.folder = &folder{dir: dir, backends: cfg.Backends}
	names, err := repo.folder.list()
	if err != nil {
		return nil, fmt.Errorf("the model repository: %w", err)
	}
	if cfg.Explicit {
		names = cfg.Preload
	}
	for _, n := range names {
		if repo.families[n] == nil {
			repo.families[n] = newFamily(n)
		}
		repo.families[n].wanted = true
	}
	return repo, nil
}

// all returns the families in the order of their names.
func (r *repository) all() []*family {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Values(r.families), func(a, b *family) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
}

func (r *repository) family(name string) *family {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.families[name]
}

// known returns the family of a name that came from the network. It makes the family if it is new
// and the folder has such a model, so there are never more families than there were folders.
func (r *repository) known(name string) (*family, *failure) {
	if f := r.family(name); f != nil {
		return f, nil
	}
	if err := checkName(name); err != nil {
		return nil, &failure{code: codes.InvalidArgument, message: err.Error()}
	}
	if r.folder == nil || !r.folder.has(name) {
		return nil, &failure{code: codes.NotFound, reason: oip.ReasonModelNotFound,
			message: fmt.Sprintf("no model %q in the repository", name)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.families[name]
	if f == nil {
		f = newFamily(name)
		f.failed = &failure{code: codes.NotFound, reason: oip.ReasonModelNotFound, message: fmt.Sprintf("model %q is not loaded", name)}
		close(f.first)
		r.families[name] = f
	}
	return f, nil
}

// specs returns the versions of a family that are to be loaded.
func (r *repository) specs(f *family) ([]Model, error) {
	if f.specs != nil {
		return f.specs, nil
	}
	return r.folder.find(f.name)
}

// describe returns the version that answers a request for this name and version now, and the names
// of all versions that take requests.
func (s *Server) describe(name, version string) (*model, []string, *failure) {
	f := s.repo.family(name)
	if f == nil {
		return nil, nil, s.notFound(name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m, fail := f.choose(version, s.cfg.RetryDelay)
	return m, f.names(), fail
}

// acquire returns the version that answers a request, with a lease on it: the version is not closed
// before its release. known reports whether the model exists, even if no version of it takes
// requests.
func (s *Server) acquire(name, version string) (_ *model, known bool, _ *failure) {
	f := s.repo.family(name)
	if f == nil {
		return nil, false, s.notFound(name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m, fail := f.choose(version, s.cfg.RetryDelay)
	if m != nil {
		m.leases++
	}
	return m, true, fail
}

func (s *Server) notFound(name string) *failure {
	const most = 16
	var names []string
	for _, f := range s.repo.all() {
		names = append(names, f.name)
	}
	has := fmt.Sprintf("%q", names[:min(len(names), most)])
	if n := len(names) - most; n > 0 {
		has += fmt.Sprintf(" and %d more", n)
	}
	return &failure{code: codes.NotFound, reason: oip.ReasonModelNotFound, message: fmt.Sprintf("no model %q; this server has %s", name, has)}
}

// errStopping is why a load is abandoned when the server drains.
var errStopping = errors.New("the server is stopping")

// take waits for the family's turn.
func (s *Server) take(ctx context.Context, f *family) error {
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.drainCtx.Done():
		return errStopping
	}
	if s.isDraining() {
		<-f.turn
		return errStopping
	}
	return nil
}

// load loads a family, or loads it again. The caller has taken the family's turn, and load ends it.
// Old versions take the requests until the new ones are warm. load calls answer once, when requests
// go to the new versions or when the load has failed. The turn ends only when the old versions are
// closed, so a version never has more than two models.
func (s *Server) load(f *family, answer func(*failure)) {
	defer func() { <-f.turn }()
	fresh, err := s.loadVersions(f)
	if err != nil {
		fail := f.fail(err)
		s.cfg.Logger.Error("model failed to load", "model", f.name, "error", err)
		answer(fail)
		return
	}
	old := f.replace(fresh)
	s.setHealth()
	answer(nil)
	s.closeRetired(f, old)
}

// loadVersions loads every version of the family, or none.
func (s *Server) loadVersions(f *family) (fresh []*model, err error) {
	f.begin(nil)
	defer func() {
		if err != nil {
			for _, m := range fresh {
				_ = m.runner.close(context.Background())
			}
		}
	}()
	specs, err := s.repo.specs(f)
	if err != nil {
		return nil, fmt.Errorf("model %q: %w", f.name, err)
	}
	var versions []string
	for _, spec := range specs {
		versions = append(versions, spec.Version)
	}
	f.begin(versions)
	for _, spec := range specs {
		m, err := s.loadModel(s.loadCtx, f, spec)
		if err != nil && len(specs) > 1 {
			err = fmt.Errorf("version %q: %w", spec.Version, err)
		}
		if err != nil {
			return fresh, fmt.Errorf("model %q: %w", f.name, err)
		}
		fresh = append(fresh, m)
	}
	return fresh, nil
}

// unload unloads a family. The caller has taken the family's turn, and unload ends it. Requests
// that were admitted are answered first.
func (s *Server) unload(f *family, answer func(*failure)) {
	defer func() { <-f.turn }()
	old := f.unload()
	s.setHealth()
	s.closeRetired(f, old)
	if len(old) > 0 {
		s.cfg.Logger.Info("model unloaded", "model", f.name)
	}
	answer(nil)
}

// closeRetired closes each version when its last request was answered.
func (s *Server) closeRetired(f *family, old []*model) {
	for _, m := range old {
		<-m.unused
		if err := m.runner.close(context.Background()); err != nil {
			s.cfg.Logger.Error("closing a model failed", "model", m.name, "version", m.version, "error", err)
		}
		f.closed(m)
	}
}

// closeModels closes every model when the server ends and no request is left.
func (s *Server) closeModels(ctx context.Context) error {
	var errs []error
	for _, f := range s.repo.all() {
		select {
		case f.turn <- struct{}{}: // for good
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("model %q does not stop loading, or does not return from a batch whose callers have gone", f.name))
			continue
		}
		for _, m := range f.live() {
			errs = append(errs, m.runner.close(ctx))
		}
	}
	return errors.Join(errs...)
}
