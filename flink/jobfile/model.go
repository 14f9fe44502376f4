package jobfile

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job/embedded"
	"github.com/tensorferry/tensorferry/job/inference"
)

type (
	value  = json.RawMessage
	caller = async.Caller[value, value]
)

// Function implements flink.Maker.
func (s shipped) Function() (async.Function[value, value], error) {
	if s.Spec.Sidecar == nil {
		return inference.NewFunction(&s.Spec, s.Spec.Infer.Endpoint, nil)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	// Only the endpoint is not known yet. This function makes the fallbacks; Open makes
	// another.
	f, err := inference.NewFunction(&s.Spec, "unix:///chosen/at/start", nil)
	return &withSidecar{Function: f, job: s, key: string(text)}, err
}

// withSidecar is the function of a job that brings its sidecar. The first channel in a worker
// process starts the sidecar, and the last one ends it.
type withSidecar struct {
	*inference.Function
	job shipped
	key string
}

// Open implements async.Function.
func (f *withSidecar) Open(ctx context.Context, sub async.Subtask, done async.Completer[value]) (caller, error) {
	m, err := hire(ctx, f.key, f.job)
	if err != nil {
		return nil, err
	}
	fn, err := inference.NewFunction(&f.job.Spec, m.server.Endpoint(), nil)
	if err == nil {
		var c caller
		if c, err = fn.Open(ctx, sub, done); err == nil {
			return &hiring{caller: c, m: m}, nil
		}
	}
	m.leave()
	return nil, err
}

// hiring is a channel to a sidecar in this process.
type hiring struct {
	caller
	m    *hired
	once sync.Once
}

// Close closes the channel, and the sidecar if it was the last.
func (h *hiring) Close() error {
	err := h.caller.Close()
	h.once.Do(h.m.leave)
	return err
}

// hired is a sidecar with the number of its channels.
type hired struct {
	key    string
	ready  sync.Mutex        // held while it starts and ends
	server *embedded.Sidecar // under ready
	users  int               // under hiredMu
}

var (
	hiredMu  sync.Mutex
	allHired = map[string]*hired{}
)

// hire returns the sidecar of a job, and starts it if it does not run.
func hire(ctx context.Context, key string, job shipped) (*hired, error) {
	hiredMu.Lock()
	m := allHired[key]
	if m == nil {
		m = &hired{key: key}
		allHired[key] = m
	}
	m.users++
	hiredMu.Unlock()
	m.ready.Lock()
	defer m.ready.Unlock()
	if m.server != nil {
		return m, nil
	}
	server, err := embedded.Start(ctx, &job.Spec, slog.Default(), nil)
	if err != nil {
		m.left()
		return nil, err
	}
	m.server = server
	return m, nil
}

// leave ends the sidecar after the last channel. A new channel waits for that and then starts the
// sidecar again, because two sidecars could not share a socket that the job names.
func (m *hired) leave() {
	m.ready.Lock()
	defer m.ready.Unlock()
	m.left()
}

// left is leave for a caller that holds ready.
func (m *hired) left() {
	hiredMu.Lock()
	m.users--
	last := m.users == 0
	hiredMu.Unlock()
	if !last {
		return
	}
	if m.server != nil {
		if err := m.server.Close(); err != nil {
			slog.Warn("the job's sidecar could not be closed", "error", err)
		}
		m.server = nil
	}
	hiredMu.Lock()
	defer hiredMu.Unlock()
	if m.users == 0 {
		delete(allHired, m.key)
	}
}
