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

	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
)

const metricsNamespace = "tensorferry_job"

// metrics are what a running job shows at --metrics. docs/metrics.md lists them.
type metrics struct {
	registry *prometheus.Registry
	server   *http.Server
	listener net.Listener
	job      string

	mu       sync.Mutex
	progress func() stream.Progress
	lag      func() (records int64, known bool) // nil: the source has none

	checkpoint, publish       prometheus.Histogram
	requestSeconds, batchRows prometheus.Histogram
	descs                     []operatorMetric
	jobDescs                  []jobMetric
	state                     *prometheus.Desc
	lagDesc                   *prometheus.Desc
}

// operatorMetric is a number of each operator. Those of asynchronous operators alone are left out for the others.
type operatorMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	async bool
	value func(*stream.OperatorProgress) float64
}

// jobMetric is a number of the whole job.
type jobMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*stream.Progress) float64
}

// newMetrics listens at an address. Nothing is served before serve.
func newMetrics(address, job string, withPprof bool) (*metrics, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	m := &metrics{registry: prometheus.NewRegistry(), listener: l, job: job,
		progress: func() stream.Progress { return stream.Progress{State: stream.StateStarting} },
	}
	constant := prometheus.Labels{"job": job}
	seconds := prometheus.ExponentialBuckets(1e-3, 2, 18)
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: metricsNamespace, Name: name, Help: help, Buckets: buckets, ConstLabels: constant})
	}
	m.checkpoint = histogram("checkpoint_seconds", "Time from the start of a checkpoint to the publishing of its results.", seconds)
	m.publish = histogram("publish_seconds", "Time that publishing the results of a checkpoint took.", seconds)
	m.requestSeconds = histogram("request_seconds", "Time from sending a request to the model server to its answer.", prometheus.ExponentialBuckets(100e-6, 2, 18))
	m.batchRows = histogram("request_rows", "Records in each request to the model server.", prometheus.ExponentialBuckets(1, 2, 12))
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, "", name), help, labels, constant)
	}
	m.state = desc("state", "1 for the state that the job is in.", "state")
	m.lagDesc = desc("consumer_lag_records", "Records of the source that are there and have not been read.")
	ofOperators := func(kind prometheus.ValueType, async bool, name, help string, value func(*stream.OperatorProgress) float64) {
		m.descs = append(m.descs, operatorMetric{desc(name, help, "operator"), kind, async, value})
	}
	type op = stream.OperatorProgress
	ofOperators(prometheus.CounterValue, false, "records_in_total", "Records that came in.", func(o *op) float64 { return float64(o.In) })
	ofOperators(prometheus.CounterValue, false, "records_out_total", "Records that were emitted.", func(o *op) float64 { return float64(o.Out) })
	ofOperators(prometheus.CounterValue, false, "records_dropped_total", "Records that failed and were dropped.", func(o *op) float64 { return float64(o.Dropped) })
	ofOperators(prometheus.CounterValue, false, "records_dead_lettered_total", "Records that failed and went to the dead letters.", func(o *op) float64 { return float64(o.DeadLettered) })
	ofOperators(prometheus.CounterValue, true, "calls_total", "Calls of records, retries included.", func(o *op) float64 { return float64(o.Async.Calls) })
	ofOperators(prometheus.CounterValue, true, "timeouts_total", "Records whose time was over.", func(o *op) float64 { return float64(o.Async.Timeouts) })
	ofOperators(prometheus.CounterValue, true, "retries_total", "Attempts after the first.", func(o *op) float64 { return float64(o.Async.Retries) })
	ofOperators(prometheus.CounterValue, true, "holds_total", "Times that a record was held for a server that was overloaded or away.", func(o *op) float64 { return float64(o.Async.Holds) })
	ofOperators(prometheus.CounterValue, true, "fallbacks_total", "Results that were made without the model.", func(o *op) float64 { return float64(o.Async.Fallbacks) })
	ofOperators(prometheus.CounterValue, true, "drains_total", "Barriers that waited for what was in flight.", func(o *op) float64 { return float64(o.Async.Drains) })
	ofOperators(prometheus.CounterValue, true, "drain_seconds_total", "Time that barriers have waited, of all subtasks together.", func(o *op) float64 { return o.Async.DrainTime.Seconds() })
	ofOperators(prometheus.GaugeValue, true, "queued_records", "Records admitted and not yet emitted.", func(o *op) float64 { return float64(o.Async.Queued) })
	ofOperators(prometheus.GaugeValue, true, "in_flight_calls", "Calls in progress.", func(o *op) float64 { return float64(o.Async.InFlight) })
	ofOperators(prometheus.GaugeValue, true, "held_records", "Records that wait for a server that is overloaded or away.", func(o *op) float64 { return float64(o.Async.Held) })
	ofOperators(prometheus.GaugeValue, true, "retrying_records", "Records that wait for their next attempt.", func(o *op) float64 { return float64(o.Async.Retrying) })
	ofOperators(prometheus.GaugeValue, true, "parked_results", "Results that wait for their turn to leave.", func(o *op) float64 { return float64(o.Async.Done) })
	ofOperators(prometheus.GaugeValue, true, "call_limit", "Calls that may be in progress at present.", func(o *op) float64 { return float64(o.Async.Limit) })
	ofOperators(prometheus.GaugeValue, true, "connected", "1 if every subtask can call, 0 if one is suspended.", func(o *op) float64 {
		if o.Async.Suspended != nil {
			return 0
		}
		return 1
	})
	ofJob := func(kind prometheus.ValueType, name, help string, value func(*stream.Progress) float64) {
		m.jobDescs = append(m.jobDescs, jobMetric{desc(name, help), kind, value})
	}
	ofJob(prometheus.CounterValue, "restarts_total", "Restarts after a failure.", func(p *stream.Progress) float64 { return float64(p.Restarts) })
	ofJob(prometheus.CounterValue, "checkpoints_completed_total", "Checkpoints whose results are published.", func(p *stream.Progress) float64 { return float64(p.CheckpointsCompleted) })
	ofJob(prometheus.CounterValue, "checkpoints_failed_total", "Checkpoints that were given up.", func(p *stream.Progress) float64 { return float64(p.CheckpointsFailed) })
	ofJob(prometheus.GaugeValue, "last_checkpoint_timestamp_seconds", "When the last checkpoint was completed; 0 before the first.", func(p *stream.Progress) float64 {
		if p.LastCheckpointAt.IsZero() {
			return 0
		}
		return float64(p.LastCheckpointAt.UnixMilli()) / 1e3
	})
	ofJob(prometheus.GaugeValue, "published_results", "Results that are published, of the whole run.", func(p *stream.Progress) float64 { return float64(p.Committed) })
	m.registry.MustRegister(m, m.checkpoint, m.publish, m.requestSeconds, m.batchRows)

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
	m.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return m, nil
}

// watch shows a run from now on.
func (m *metrics) watch(run *stream.Run, lag func() (int64, bool)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress, m.lag = run.Progress, lag
}

// present is what there is to show.
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

// Observe implements stream.Observer.
func (m *metrics) Observe(e stream.Event) {
	if e, ok := e.(stream.CheckpointCompleted); ok {
		m.checkpoint.Observe(e.Duration.Seconds())
		m.publish.Observe(e.Published.Seconds())
	}
}

// request takes the end of a request.
func (m *metrics) request(r sidecar.Request) {
	m.requestSeconds.Observe(r.Took.Seconds())
	m.batchRows.Observe(float64(r.Rows))
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	to <- m.state
	to <- m.lagDesc
	for _, d := range m.descs {
		to <- d.desc
	}
	for _, d := range m.jobDescs {
		to <- d.desc
	}
}

var runStates = []stream.State{stream.StateStarting, stream.StateRunning, stream.StateRestarting, stream.StateStopping,
	stream.StateFinished, stream.StateStopped, stream.StateFailed}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	p, lag, known := m.present()
	for _, s := range runStates {
		v := 0.0
		if s == p.State {
			v = 1
		}
		to <- prometheus.MustNewConstMetric(m.state, prometheus.GaugeValue, v, string(s))
	}
	if known {
		to <- prometheus.MustNewConstMetric(m.lagDesc, prometheus.GaugeValue, float64(lag))
	}
	for i := range p.Worked {
		o := &p.Worked[i]
		for _, d := range m.descs {
			if !d.async || o.Name == inferName {
				to <- prometheus.MustNewConstMetric(d.desc, d.kind, d.value(o), o.Name)
			}
		}
	}
	for _, d := range m.jobDescs {
		to <- prometheus.MustNewConstMetric(d.desc, d.kind, d.value(&p))
	}
}

// health answers 200 while the job runs, and 503 else.
func (m *metrics) health(w http.ResponseWriter, _ *http.Request) {
	p, _, _ := m.present()
	state := string(p.State)
	if p.State == stream.StateRunning {
		state = "ready"
	}
	form := map[string]any{"job": m.job, "state": state, "restarts": p.Restarts, "checkpoint": p.LastCheckpoint}
	if p.LastError != nil {
		form["last_error"] = p.LastError.Error()
	}
	var suspended error
	for _, o := range p.Operators {
		if o.Async.Suspended != nil {
			suspended = o.Async.Suspended
		}
	}
	if suspended != nil {
		form["suspended"] = suspended.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	if p.State != stream.StateRunning {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	text, err := json.Marshal(form)
	if err != nil {
		text = fmt.Appendf(nil, `{"state":%q}`, state)
	}
	w.Write(append(text, '\n'))
}

// observers passes events on to several.
type observers []stream.Observer

// Observe implements stream.Observer.
func (all observers) Observe(e stream.Event) {
	for _, o := range all {
		o.Observe(e)
	}
}
