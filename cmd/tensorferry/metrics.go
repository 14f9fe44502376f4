package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tensorferry/tensorferry/stream"
)

// metrics are the metrics that a running job serves at --metrics. docs/metrics.md lists them.
type metrics struct {
	registry *prometheus.Registry
	server   *http.Server
	listener net.Listener
	job      string

	mu       sync.Mutex
	progress func() stream.Progress
	lag      func() (records int64, known bool) // nil: the source has none

	skipped    func() int64 // set before anything is served; nil if the source skips nothing
	notNumbers func() int64 // in the answers; set before anything is served

	checkpoint, commit        prometheus.Histogram
	requestSeconds, batchRows *prometheus.HistogramVec
	list                      metricList
}

// newMetrics listens at an address. Nothing is served before serve.
func newMetrics(address, job string, withPprof bool) (*metrics, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	m := collectMetrics(job)
	m.listener = l
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health", m.health)
	if withPprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	// A scrape sends and takes little, and quickly. A profile takes as long as its request
	// says, so profiles have no WriteTimeout.
	m.server = &http.Server{Handler: http.MaxBytesHandler(mux, 4<<10), ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	if !withPprof {
		m.server.WriteTimeout = 30 * time.Second
	}
	return m, nil
}

// collectMetrics makes what newMetrics serves.
func collectMetrics(job string) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), job: job,
		progress: func() stream.Progress { return stream.Progress{State: stream.StateStarting} },
	}
	m.list.fill(job)
	m.makeHistograms()
	m.registry.MustRegister(m, m.checkpoint, m.commit, m.requestSeconds, m.batchRows)
	return m
}

// watch shows a run from now on.
func (m *metrics) watch(run *stream.Run, lag func() (int64, bool)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress, m.lag = run.Progress, lag
}

// present returns the present state of the run.
func (m *metrics) present() (p stream.Progress, lag int64, known bool) {
	m.mu.Lock()
	progress, of := m.progress, m.lag
	m.mu.Unlock()
	p = progress()
	if of != nil {
		lag, known = of()
	}
	return p, lag, known
}

// serve answers until close.
func (m *metrics) serve() error {
	if err := m.server.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (m *metrics) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if m.server.Shutdown(ctx) != nil {
		m.server.Close()
	}
}

// healthOf returns the word for a state at /health, and whether it is healthy.
func healthOf(s stream.State) (word string, ok bool) {
	switch s {
	case stream.StateRunning:
		return "ready", true
	case stream.StateFinished, stream.StateStopped, stream.StateFailed:
		return "stopped", false
	}
	return string(s), false // starting, failing, restarting, stopping
}

// health answers 200 while the job runs, and 503 otherwise.
func (m *metrics) health(w http.ResponseWriter, _ *http.Request) {
	p, _, _ := m.present()
	state, ok := healthOf(p.State)
	form := map[string]any{"job": m.job, "state": state, "restarts": p.Restarts, "checkpoint": p.LastCheckpoint}
	if p.LastError != nil {
		form["last_error"] = p.LastError.Error()
	}
	if why := suspension(&p); why != nil {
		form["suspended"] = why.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	text, err := json.Marshal(form)
	if err != nil {
		text = fmt.Appendf(nil, `{"state":%q}`, state)
	}
	_, _ = w.Write(append(text, '\n'))
}

// suspension returns why a subtask makes no calls at present, or nil if all make calls.
func suspension(p *stream.Progress) error {
	for i := range p.Operators {
		if why := p.Operators[i].Async.Suspended; why != nil {
			return why
		}
	}
	return nil
}
