package ferry

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tensorferry/tensorferry/async"
)

// The answers that metrics count. The first ones are actions.
const (
	answerResult = iota
	answerFail
	answerDrop
	answerDeadLetter
	answerCancelled
	answers
)

var answerNames = [answers]string{"result", "fail", "drop", "dead_letter", "cancelled"}

// answerOf returns the answer that an action becomes.
func answerOf(a async.Action) int {
	switch a {
	case async.Drop:
		return answerDrop
	case async.DeadLetter:
		return answerDeadLetter
	}
	return answerFail
}

// counts are those of a connection, or of all connections to one model that are over.
type counts struct {
	connections                              int64
	queued, inFlight, held                   int64
	retries, timeouts, holds, requests, rows int64
	answers                                  [answers]int64
	latency, call                            async.Histogram
}

func (c *counts) add(o *counts) {
	c.connections += o.connections
	c.queued, c.inFlight, c.held = c.queued+o.queued, c.inFlight+o.inFlight, c.held+o.held
	c.retries, c.timeouts, c.holds = c.retries+o.retries, c.timeouts+o.timeouts, c.holds+o.holds
	c.requests, c.rows = c.requests+o.requests, c.rows+o.rows
	for i, n := range o.answers {
		c.answers[i] += n
	}
	c.latency, c.call = c.latency.Plus(o.latency), c.call.Plus(o.call)
}

// model names what a connection calls.
type model struct{ endpoint, name string }

// figures are what a connection shows to metrics. Its loop sets stats, and others read them.
type figures struct {
	mu      sync.Mutex
	of      model // empty before WELCOME
	stats   async.Stats
	answers [answers]atomic.Int64
}

// counts returns the present figures. ok is false before WELCOME.
func (c *connection) counts() (of model, n counts, ok bool) {
	f := &c.figures
	f.mu.Lock()
	defer f.mu.Unlock()
	st := &f.stats
	n = counts{
		connections: 1, queued: int64(st.Queued), inFlight: int64(st.InFlight), held: int64(st.Held),
		retries: st.Retries, timeouts: st.Timeouts, holds: st.Holds, requests: c.requests.Load(), rows: c.requestRows.Load(),
		latency: st.Latency, call: st.Call,
	}
	for i := range n.answers {
		n.answers[i] = f.answers[i].Load()
	}
	return f.of, n, f.of != model{}
}

// over adds the figures of a connection that has ended to those of its model. The caller holds mu.
func (s *Server) over(c *connection) {
	of, n, ok := c.counts()
	if !ok {
		return
	}
	n.connections, n.queued, n.inFlight, n.held = 0, 0, 0, 0
	all := s.past[of]
	all.add(&n)
	s.past[of] = all
}

// metric describes one of the Server's metrics.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*counts) int64
}

func describeMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tensorferry_ferry_"+name, help, append([]string{"endpoint", "model"}, labels...), nil)
}

var (
	metrics = []metric{
		{describeMetric("connections", "Connections of clients that were welcomed."), prometheus.GaugeValue, func(c *counts) int64 { return c.connections }},
		{describeMetric("queued_records", "Records that the operators have and that have no answer yet."), prometheus.GaugeValue, func(c *counts) int64 { return c.queued }},
		{describeMetric("in_flight_calls", "Calls in progress."), prometheus.GaugeValue, func(c *counts) int64 { return c.inFlight }},
		{describeMetric("held_records", "Records that wait for a model server that is out of reach or has no room."), prometheus.GaugeValue, func(c *counts) int64 { return c.held }},
		{describeMetric("retries_total", "Calls that followed a failed one."), prometheus.CounterValue, func(c *counts) int64 { return c.retries }},
		{describeMetric("timeouts_total", "Records whose time was over."), prometheus.CounterValue, func(c *counts) int64 { return c.timeouts }},
		{describeMetric("holds_total", "How often a record was held."), prometheus.CounterValue, func(c *counts) int64 { return c.holds }},
		{describeMetric("requests_total", "Requests to the model server."), prometheus.CounterValue, func(c *counts) int64 { return c.requests }},
		{describeMetric("request_rows_total", "Rows in these requests."), prometheus.CounterValue, func(c *counts) int64 { return c.rows }},
	}
	answersDesc = describeMetric("answers_total", "Answers to clients, by what they are: a result, a failure with its action, or cancelled.", "answer")
	latencyDesc = describeMetric("latency_seconds", "Time from a record's arrival at the operator to its answer.")
	callDesc    = describeMetric("call_seconds", "Time of a call, from the operator's view.")
	refusedDesc = prometheus.NewDesc("tensorferry_ferry_refused_connections_total", "Connections that were closed because there were as many as are allowed, or because of their user.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		ch <- m.desc
	}
	ch <- answersDesc
	ch <- latencyDesc
	ch <- callDesc
	ch <- refusedDesc
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	all := map[model]counts{}
	for of, n := range s.past {
		all[of] = n
	}
	for c := range s.open {
		if of, n, ok := c.counts(); ok {
			sum := all[of]
			sum.add(&n)
			all[of] = sum
		}
	}
	refused := s.refused
	s.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(refused))
	for of, n := range all {
		for _, m := range metrics {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.of(&n)), of.endpoint, of.name)
		}
		for i, name := range answerNames {
			ch <- prometheus.MustNewConstMetric(answersDesc, prometheus.CounterValue, float64(n.answers[i]), of.endpoint, of.name, name)
		}
		ch <- histogram(latencyDesc, &n.latency, of)
		ch <- histogram(callDesc, &n.call, of)
	}
}

func histogram(d *prometheus.Desc, h *async.Histogram, of model) prometheus.Metric {
	buckets := make(map[float64]uint64, async.HistogramBuckets)
	total := int64(0)
	for i := range async.HistogramBuckets {
		total += h.Buckets[i]
		buckets[async.HistogramBound(i).Seconds()] = uint64(total)
	}
	return prometheus.MustNewConstHistogram(d, uint64(h.Count()), h.Sum.Seconds(), buckets, of.endpoint, of.name)
}

// Handler returns the handler of GET /health and GET /metrics. /health answers 200 while the server
// accepts connections, and 503 when it stops.
func (s *Server) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(s)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		word := "READY"
		select {
		case <-s.draining:
			w.WriteHeader(http.StatusServiceUnavailable)
			word = "NOT_READY"
		default:
		}
		fmt.Fprintln(w, word)
	})
	return mux
}
