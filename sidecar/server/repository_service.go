package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// RepositoryIndex lists the models. Those that are loaded, or were asked for, have an entry for
// each version. Those in the folder that were never asked for have one entry, without a version and
// a state.
func (s *service) RepositoryIndex(_ context.Context, req *oip.RepositoryIndexRequest) (*oip.RepositoryIndexResponse, error) {
	if f := oneRepository(req.GetRepositoryName()); f != nil {
		return nil, f.status("", "")
	}
	resp := &oip.RepositoryIndexResponse{}
	listed := map[string]bool{}
	for _, f := range s.repo.all() {
		listed[f.name] = true
		for _, st := range f.index() {
			if st.state == stateReady || !req.GetReady() {
				resp.Models = append(resp.Models, &oip.RepositoryIndexResponse_ModelIndex{
					Name: f.name, Version: st.version, State: st.state, Reason: strings.ToValidUTF8(st.reason, "\uFFFD")})
			}
		}
	}
	if s.repo.folder != nil && !req.GetReady() {
		names, err := s.repo.folder.list()
		if err != nil {
			f := &failure{code: codes.Internal, message: "the repository cannot be read: " + s.repo.folder.inside(err).Error()}
			return nil, f.status("", "")
		}
		for _, n := range names {
			if !listed[n] {
				resp.Models = append(resp.Models, &oip.RepositoryIndexResponse_ModelIndex{Name: n})
			}
		}
	}
	slices.SortStableFunc(resp.Models, func(a, b *oip.RepositoryIndexResponse_ModelIndex) int { return strings.Compare(a.Name, b.Name) })
	return resp, nil
}

// RepositoryModelLoad loads a model, or loads it again, and returns when the model takes requests.
// The load goes on if its caller goes away.
func (s *service) RepositoryModelLoad(ctx context.Context, req *oip.RepositoryModelLoadRequest) (*oip.RepositoryModelLoadResponse, error) {
	if names := slices.Sorted(maps.Keys(req.GetParameters())); len(names) > 0 {
		name := names[0]
		f := &failure{code: codes.InvalidArgument, message: fmt.Sprintf("unknown parameter %q; a load takes no parameters here", name)}
		if name == "config" || strings.HasPrefix(name, "file:") {
			f = &failure{code: codes.Unimplemented, reason: oip.ReasonUnsupportedFeature,
				message: fmt.Sprintf("parameter %q: this server loads what is in its repository, and takes neither configurations nor files with the request", name)}
		}
		return nil, f.status(req.GetModelName(), "")
	}
	if err := s.change(ctx, req.GetRepositoryName(), req.GetModelName(), s.load); err != nil {
		return nil, err
	}
	return &oip.RepositoryModelLoadResponse{}, nil
}

// RepositoryModelUnload unloads a model, and returns when the model's requests are answered and it
// is closed. The unload goes on if its caller goes away.
func (s *service) RepositoryModelUnload(ctx context.Context, req *oip.RepositoryModelUnloadRequest) (*oip.RepositoryModelUnloadResponse, error) {
	for _, name := range slices.Sorted(maps.Keys(req.GetParameters())) {
		// Models do not depend on each other here, so either value is fine.
		if _, ok := req.GetParameters()[name].GetParameterChoice().(*oip.ModelRepositoryParameter_BoolParam); name == "unload_dependents" && ok {
			continue
		}
		f := &failure{code: codes.InvalidArgument, message: fmt.Sprintf("unknown parameter %q; an unload takes only the bool unload_dependents", name)}
		return nil, f.status(req.GetModelName(), "")
	}
	if err := s.change(ctx, req.GetRepositoryName(), req.GetModelName(), s.unload); err != nil {
		return nil, err
	}
	return &oip.RepositoryModelUnloadResponse{}, nil
}

func oneRepository(name string) *failure {
	if name == "" {
		return nil
	}
	return &failure{code: codes.Unimplemented, reason: oip.ReasonUnsupportedFeature,
		message: "repository_name: this server has one repository; leave the name out"}
}

// change loads or unloads a model when earlier changes of the model have ended. A caller that goes
// away before its turn comes has changed nothing. If it goes away later, the change goes on.
func (s *service) change(ctx context.Context, repository, name string, do func(f *family, answer func(*failure))) error {
	refuse := oneRepository(repository)
	switch {
	case refuse != nil:
	case s.isDraining():
		refuse = s.draining()
	case !s.cfg.Explicit:
		refuse = &failure{code: codes.Unimplemented, reason: oip.ReasonUnsupportedFeature,
			message: "this server loads models only when it starts; to load and unload them later, start it with --model-control explicit"}
	default:
		refuse = s.mayControl(ctx)
	}
	if refuse != nil {
		return refuse.status(name, "")
	}
	f, refuse := s.repo.known(name)
	if refuse != nil {
		return refuse.status(name, "")
	}
	if err := s.take(ctx, f); err == errStopping {
		return s.draining().status(name, "")
	} else if err != nil {
		return status.FromContextError(err).Err()
	}
	outcome := make(chan *failure, 1)
	// The server has not ended yet, because it waits for this handler.
	s.goroutines.Go(func() { do(f, func(fail *failure) { outcome <- fail }) })
	select {
	case fail := <-outcome:
		if fail != nil && s.isDraining() {
			fail = s.draining()
		}
		if fail != nil {
			return fail.status(name, "")
		}
		return nil
	case <-ctx.Done():
		return callerGone(ctx)
	case <-s.drainCtx.Done():
		return s.draining().status(name, "")
	}
}
