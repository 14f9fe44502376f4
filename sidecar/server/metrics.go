package server

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what /metrics shows. Times are in seconds. Each server has a
// registry of its own.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec // by model and code
	refused  *prometheus.CounterVec // by reason
	inFlight prometheus.Gauge

	batchRows *prometheus.HistogramVec
	stages    *prometheus.HistogramVec
	failed    *prometheus.CounterVec
}

// modelMetrics are those of one model, so that a request needs no lookup.
type modelMetrics struct {
	batchRows                           prometheus.Observer
	total, queue, gather, compute, send prometheus.Observer
	failedBatches                       prometheus.Counter
}

func newMetrics(s *Server) *metrics {
	const ns = "tensorferry_sidecar"
	seconds := prometheus.ExponentialBuckets(50e-6, 2, 20)
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "requests_total",
			Help: "Inference requests that were answered, by model and status code."}, []string{"model", "code"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "rejections_total",
			Help: "Inference requests that failed, by the reason in their status, or its code if it has none."}, []string{"reason"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "in_flight_requests",
			Help: "Inference requests that are not answered yet."}),
		batchRows: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: ns, Name: "batch_rows",
			Help: "Rows in each batch that was run.", Buckets: prometheus.ExponentialBuckets(1, 2, 12)}, []string{"model"}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: ns, Name: "stage_seconds",
			Help: "Time of a request, end to end (total) and by stage: queue (admitted to taken into a batch) and write (outcome " +
				"to answer written) of each request, batch (gathering its rows) and compute (running it) of each batch.",
			Buckets: seconds}, []string{"model", "stage"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "failed_batches_total",
			Help: "Batches that failed, including those run to find the rows at fault, and those whose rows could not be gathered."}, []string{"model"}),
	}
	m.registry.MustRegister(m.requests, m.refused, m.inFlight, m.batchRows, m.stages, m.failed,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Name: "queue_rows",
			Help: "Rows of requests that wait to be run, wholly or in part."}, func() float64 { rows, _ := s.admission.held(); return float64(rows) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Name: "queue_bytes",
			Help: "Bytes of requests that wait to be run, wholly or in part."}, func() float64 { _, bytes := s.admission.held(); return float64(bytes) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Name: "connections",
			Help: "Open gRPC connections."}, func() float64 { return float64(s.Connections()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Name: "calls",
			Help: "Inferences from the headers of their call to the last byte of their answer."}, func() float64 { return float64(s.calls.taken()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Name: "receive_bytes",
			Help: "Bytes that are set aside for requests that arrive, are unzipped or decoded."}, func() float64 { return float64(s.small.taken() + s.large.taken() + s.control.taken()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Name: "answer_bytes",
			Help: "Bytes of answers that their callers have not read."}, func() float64 { return float64(s.answers.taken() + s.told.taken()) }),
	)
	for i, name := range doorNames {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: ns, Name: "turned_away_total",
			Help: "Connections, requests and answers that exceeded a bound, by the bound.", ConstLabels: prometheus.Labels{"door": name}},
			func() float64 { return float64(s.turned[i].Load()) }))
	}
	return m
}

func (m *metrics) of(model string) *modelMetrics {
	stage := func(name string) prometheus.Observer { return m.stages.WithLabelValues(model, name) }
	return &modelMetrics{
		batchRows: m.batchRows.WithLabelValues(model),
		total:     stage("total"), queue: stage("queue"), gather: stage("batch"), compute: stage("compute"), send: stage("write"),
		failedBatches: m.failed.WithLabelValues(model),
	}
}

// batch records the run of a batch whose rows were gathered.
func (m *modelMetrics) batch(x *batch) {
	computed := x.run.computed
	if computed.IsZero() {
		computed = x.run.ended // the backend did not return
	}
	m.batchRows.Observe(float64(x.rows))
	m.gather.Observe(x.run.gathered.Sub(x.run.began).Seconds())
	m.compute.Observe(computed.Sub(x.run.gathered).Seconds())
}
