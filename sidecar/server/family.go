package server

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// family is all versions of one model, which requests address by the model's name. The versions are
// loaded and unloaded together. A load makes all new versions or none. The new ones replace the old
// ones at one instant.
type family struct {
	name  string
	specs []Model       // from Config.Models; nil: from the folder
	turn  chan struct{} // holds a token while the family is loaded or unloaded
	first chan struct{} // closed when the load at the server's start has ended

	mu       sync.Mutex
	versions []*model // those that take requests, the greatest first
	retiring []*model // those that only finish the requests that they have
	loading  []string // versions that are being loaded
	past     []state  // versions that are not loaded, and why
	failed   *failure // why no version takes requests; nil: one does, or will
	note     string   // a remark on the versions that take requests, for the index
	wanted   bool     // asked for at the start, and neither loaded nor unloaded since
	loaded   bool     // it was loaded at some time
	startErr error    // of the load at the server's start
}

// state is a line of the repository's index.
type state struct{ version, state, reason string }

// The states, as Triton names them.
const (
	stateReady       = "READY"
	stateLoading     = "LOADING"
	stateUnloading   = "UNLOADING"
	stateUnavailable = "UNAVAILABLE"
)

func newFamily(name string) *family {
	return &family{name: name, turn: make(chan struct{}, 1), first: make(chan struct{})}
}

// choose returns the version that answers a request, or why there is none. It must be called with
// the lock held.
func (f *family) choose(version string, retry time.Duration) (*model, *failure) {
	if i := slices.IndexFunc(f.versions, func(m *model) bool { return version == "" || m.version == version }); i >= 0 {
		return f.versions[i], nil
	}
	switch {
	case slices.Contains(f.loading, version) || len(f.versions) == 0 && f.failed == nil:
		return nil, &failure{code: codes.Unavailable, reason: oip.ReasonModelLoading, retry: retry,
			message: fmt.Sprintf("model %q is still loading", f.name)}
	case len(f.versions) == 0:
		return nil, f.failed
	}
	return nil, &failure{code: codes.NotFound, reason: oip.ReasonVersionMismatch, message: fmt.Sprintf(
		"model %q has %s, not %q; ask for a version that it has, or leave the version out", f.name, versionList(f.names()), version)}
}

// names returns the versions that take requests, the least first. It must be called with the lock
// held.
func (f *family) names() []string {
	out := make([]string, 0, len(f.versions))
	for _, m := range slices.Backward(f.versions) {
		out = append(out, m.version)
	}
	return out
}

// versionList writes versions for a message, and not more than fit into a status.
func versionList(versions []string) string {
	const most = 16
	what := "versions "
	if len(versions) == 1 {
		what = "version "
	}
	out := what + quoted(versions[:min(len(versions), most)])
	if n := len(versions) - most; n > 0 {
		out += fmt.Sprintf(" and %d more", n)
	}
	return out
}

func quoted(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(out, ", ")
}

// begin notes that versions are being loaded.
func (f *family) begin(versions []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loading = versions
	if len(f.versions) == 0 {
		f.failed, f.past = nil, nil
	}
}

// replace takes the outcome of a load that succeeded. From now on fresh takes the requests. It
// retires the versions that took them before, and returns these.
func (f *family) replace(fresh []*model) []*model {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.versions
	slices.SortFunc(fresh, func(a, b *model) int { return compareVersions(b.version, a.version) })
	f.versions = fresh
	f.loading, f.past, f.failed, f.note, f.wanted, f.loaded = nil, nil, nil, "", false, true
	f.retire(old)
	return old
}

// fail takes the outcome of a load that failed. Versions that took requests before go on. It
// returns the failure for the caller that asked for the load.
func (f *family) fail(err error) *failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &failure{code: codes.FailedPrecondition, reason: oip.ReasonModelLoadFailed, message: err.Error()}
	if len(f.versions) > 0 {
		f.note = "loading it again failed: " + out.message
		out.message += fmt.Sprintf("; requests still go to %s, loaded before", versionList(f.names()))
	} else {
		f.failed, f.past = out, nil
		for _, v := range f.loading {
			f.past = append(f.past, state{v, stateUnavailable, out.message})
		}
		if len(f.past) == 0 {
			f.past = []state{{"", stateUnavailable, out.message}}
		}
	}
	f.loading = nil
	return out
}

// unload ends the taking of requests for every version, and returns these versions.
func (f *family) unload() []*model {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.versions
	f.versions, f.note, f.wanted, f.past = nil, "", false, nil
	f.failed = &failure{code: codes.NotFound, reason: oip.ReasonModelNotFound, message: fmt.Sprintf("model %q is unloaded", f.name)}
	for _, m := range slices.Backward(old) {
		f.past = append(f.past, state{m.version, stateUnavailable, "unloaded"})
	}
	if len(old) == 0 {
		f.past = []state{{"", stateUnavailable, "unloaded"}}
	}
	f.retire(old)
	return old
}

// retire must be called with the lock held.
func (f *family) retire(old []*model) {
	for _, m := range old {
		m.retired = true
		m.checkUnused()
	}
	f.retiring = append(f.retiring, old...)
}

// closed notes that a retired version is gone.
func (f *family) closed(m *model) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retiring = slices.DeleteFunc(f.retiring, func(r *model) bool { return r == m })
}

// missing says whether a family that was asked for at the start, and is not loaded, has failed or
// is still loading. For any other family it returns false twice.
func (f *family) missing() (failed, loading bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.wanted {
		return false, false
	}
	select {
	case <-f.first:
		return true, false
	default:
		return false, true
	}
}

// wasLoaded reports whether the family is loaded, or was.
func (f *family) wasLoaded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loaded
}

// serves reports whether a version takes requests.
func (f *family) serves() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.versions) > 0
}

// live returns every version that is not closed.
func (f *family) live() []*model {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Concat(f.versions, f.retiring)
}

// index returns the family's lines of the repository's index, each version once and the least
// first.
func (f *family) index() []state {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []state
	add := func(st state) {
		if !slices.ContainsFunc(out, func(o state) bool { return o.version == st.version }) {
			out = append(out, st)
		}
	}
	for _, m := range f.versions {
		add(state{m.version, stateReady, f.note})
	}
	for _, v := range f.loading {
		add(state{v, stateLoading, ""})
	}
	for _, m := range f.retiring {
		add(state{m.version, stateUnloading, "it finishes the requests that it has"})
	}
	for _, p := range f.past {
		add(p)
	}
	if len(out) == 0 {
		add(state{"", stateLoading, ""}) // its files were not looked at yet
	}
	slices.SortFunc(out, func(a, b state) int { return compareVersions(a.version, b.version) })
	return out
}
