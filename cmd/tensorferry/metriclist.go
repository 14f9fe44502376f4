package main

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job/local"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
)

const metricsNamespace = "tensorferry_job"

// metricList has the metrics that are read from the run at each scrape.
type metricList struct {
	ofSubtasks []subtaskMetric
	ofJob      []jobMetric
	ready      *prometheus.Desc
	watermark  *prometheus.Desc
	lag        *prometheus.Desc
	skipped    *prometheus.Desc
	notNumbers *prometheus.Desc
}

// subtaskMetric is a number or a histogram of each subtask. If async is set, only subtasks of
// asynchronous operators have it.
type subtaskMetric struct {
	desc      *prometheus.Desc
	kind      prometheus.ValueType
	async     bool
	value     func(*stream.SubtaskProgress) float64
	histogram func(*async.Stats) *async.Histogram // nil for a number
}

// jobMetric is a number of the whole job.
type jobMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*stream.Progress) float64
}

// subtaskLabels are all labels besides job.
var subtaskLabels = []string{"operator", "subtask"}

func (l *metricList) fill(job string) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, "", name), help, labels, prometheus.Labels{"job": job})
	}
	l.ready = desc("ready", "1 while every subtask runs, as /health reports it.")
	l.watermark = desc("watermark_lag_seconds", "Time by which the last watermark that was passed on is behind the clock.", subtaskLabels...)
	l.skipped = desc("records_skipped_total", "Records of the source that were deleted before they were read, and were skipped.")
	l.notNumbers = desc("not_numbers_total", "Numbers in the model's answers that were NaN or infinite.")
	l.lag = desc("consumer_lag_records", "Records of the source that exist and have not been read.")

	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	type sub = stream.SubtaskProgress
	of := func(kind prometheus.ValueType, async bool, name, help string, value func(*sub) float64) {
		l.ofSubtasks = append(l.ofSubtasks, subtaskMetric{desc: desc(name, help, subtaskLabels...), kind: kind, async: async, value: value})
	}
	of(counter, false, "records_in_total", "Records that came in.", func(s *sub) float64 { return float64(s.In) })
	of(counter, false, "records_out_total", "Records that were emitted.", func(s *sub) float64 { return float64(s.Out) })
	of(counter, false, "records_dropped_total", "Records that failed and were dropped.", func(s *sub) float64 { return float64(s.Dropped) })
	of(counter, false, "records_dead_lettered_total", "Records that failed and went to the dead letters.", func(s *sub) float64 { return float64(s.DeadLettered) })
	of(counter, true, "calls_total", "Calls of records, retries included.", func(s *sub) float64 { return float64(s.Async.Calls) })
	of(counter, true, "timeouts_total", "Records that reached their timeout, including one that failed the job.", func(s *sub) float64 { return float64(s.Async.Timeouts) })
	of(counter, true, "retries_total", "Calls of records whose call before had failed.", func(s *sub) float64 { return float64(s.Async.Retries) })
	of(counter, true, "holds_total", "Times that a record was held because the server took no calls, whether or not it had been called.", func(s *sub) float64 { return float64(s.Async.Holds) })
	of(counter, true, "fallbacks_total", "Results that were made of a fallback, without the model.", func(s *sub) float64 { return float64(s.Async.Fallbacks) })
	of(gauge, true, "queued_records", "Records admitted and not yet emitted.", func(s *sub) float64 { return float64(s.Async.Queued) })
	of(gauge, true, "in_flight_calls", "Calls in progress.", func(s *sub) float64 { return float64(s.Async.InFlight) })
	of(gauge, true, "held_records", "Records that wait for a server that takes no calls.", func(s *sub) float64 { return float64(s.Async.Held) })
	of(gauge, true, "retrying_records", "Records that wait for their next attempt.", func(s *sub) float64 { return float64(s.Async.Retrying) })
	of(gauge, true, "parked_results", "Results that wait for their turn to be emitted.", func(s *sub) float64 { return float64(s.Async.Done) })
	of(gauge, true, "call_limit", "Most calls that may be in progress at present.", func(s *sub) float64 { return truth(s.Open) * float64(s.Async.Limit) })
	of(gauge, true, "connected", "1 if calls can be made; 0 while the server is away, and while the subtask does not run.", func(s *sub) float64 { return truth(s.Open && s.Async.Suspended == nil) })

	times := func(name, help string, of func(*async.Stats) *async.Histogram) {
		l.ofSubtasks = append(l.ofSubtasks, subtaskMetric{desc: desc(name, help, subtaskLabels...), async: true, histogram: of})
	}
	times("call_seconds", "Time from a record's call to its answer, failure or cancellation.", func(s *async.Stats) *async.Histogram { return &s.Call })
	times("head_of_line_wait_seconds", "Time from a record's outcome until it left the operator, while it waited for records before it.", func(s *async.Stats) *async.Histogram { return &s.HeadOfLine })
	times("latency_seconds", "Time from a record's admission until it left the operator.", func(s *async.Stats) *async.Histogram { return &s.Latency })
	times("drain_seconds", "Time that a checkpoint's barrier waited for records in flight, until it passed or was given up.", func(s *async.Stats) *async.Histogram { return &s.Drain })

	ofJob := func(kind prometheus.ValueType, name, help string, value func(*stream.Progress) float64) {
		l.ofJob = append(l.ofJob, jobMetric{desc(name, help), kind, value})
	}
	ofJob(counter, "records_untimed_total", "Records whose event time was out of range and was discarded.", func(p *stream.Progress) float64 { return float64(p.Untimed) })
	ofJob(counter, "restarts_total", "Restarts after a failure.", func(p *stream.Progress) float64 { return float64(p.Restarts) })
	ofJob(counter, "checkpoints_completed_total", "Checkpoints whose results are published.", func(p *stream.Progress) float64 { return float64(p.CheckpointsCompleted) })
	ofJob(counter, "checkpoints_failed_total", "Checkpoints that were given up.", func(p *stream.Progress) float64 { return float64(p.CheckpointsFailed) })
	ofJob(gauge, "last_checkpoint_timestamp_seconds", "When the last checkpoint was completed, by this process or before it; 0 before the first.", func(p *stream.Progress) float64 {
		if p.LastCheckpointAt.IsZero() {
			return 0
		}
		return float64(p.LastCheckpointAt.UnixMilli()) / 1e3
	})
	ofJob(gauge, "published_results", "Results that are published, of the whole run, including those of earlier processes.", func(p *stream.Progress) float64 { return float64(p.Committed) })
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// makeHistograms makes the histograms that observe single events.
func (m *metrics) makeHistograms() {
	opts := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Namespace: metricsNamespace, Name: name, Help: help, Buckets: buckets, ConstLabels: prometheus.Labels{"job": m.job}}
	}
	seconds := prometheus.ExponentialBuckets(1e-3, 2, 18)
	m.checkpoint = prometheus.NewHistogram(opts("checkpoint_seconds", "Time from the start of a checkpoint to the publishing of its results.", seconds))
	m.commit = prometheus.NewHistogram(opts("commit_seconds", "Time to store a checkpoint and publish its results.", seconds))
	m.requestSeconds = prometheus.NewHistogramVec(opts("request_seconds", "Time from sending a request to the model server to its answer, failure or cancellation.", prometheus.ExponentialBuckets(100e-6, 2, 18)), subtaskLabels)
	m.batchRows = prometheus.NewHistogramVec(opts("batch_rows", "Records in each request to the model server.", prometheus.ExponentialBuckets(1, 2, 12)), subtaskLabels)
}

// Observe implements stream.Observer.
func (m *metrics) Observe(e stream.Event) {
	if e, ok := e.(stream.CheckpointCompleted); ok {
		m.checkpoint.Observe(e.Duration.Seconds())
		m.commit.Observe((e.Kept + e.Published).Seconds())
	}
}

// request takes the end of a request.
func (m *metrics) request(r sidecar.Request) {
	subtask := strconv.Itoa(r.Subtask)
	m.requestSeconds.WithLabelValues(r.Operator, subtask).Observe(r.Took.Seconds())
	m.batchRows.WithLabelValues(r.Operator, subtask).Observe(float64(r.Rows))
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	to <- m.list.ready
	to <- m.list.watermark
	to <- m.list.lag
	to <- m.list.skipped
	to <- m.list.notNumbers
	for _, d := range m.list.ofSubtasks {
		to <- d.desc
	}
	for _, d := range m.list.ofJob {
		to <- d.desc
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	l, now := &m.list, time.Now()
	p, lag, known := m.present()
	_, ready := healthOf(p.State)
	to <- prometheus.MustNewConstMetric(l.ready, prometheus.GaugeValue, truth(ready))
	if known {
		to <- prometheus.MustNewConstMetric(l.lag, prometheus.GaugeValue, float64(lag))
	}
	if m.skipped != nil {
		to <- prometheus.MustNewConstMetric(l.skipped, prometheus.CounterValue, float64(m.skipped()))
	}
	if m.notNumbers != nil {
		to <- prometheus.MustNewConstMetric(l.notNumbers, prometheus.CounterValue, float64(m.notNumbers()))
	}
	for i := range p.Worked {
		s := &p.Worked[i]
		subtask := strconv.Itoa(s.Subtask)
		for _, d := range l.ofSubtasks {
			switch {
			case d.async && s.Name != local.InferName:
			case d.histogram != nil:
				to <- timesMetric(d.desc, d.histogram(&s.Async), s.Name, subtask)
			default:
				to <- prometheus.MustNewConstMetric(d.desc, d.kind, d.value(s), s.Name, subtask)
			}
		}
		if behind, ok := watermarkLag(s, now); ok {
			to <- prometheus.MustNewConstMetric(l.watermark, prometheus.GaugeValue, behind.Seconds(), s.Name, subtask)
		}
	}
	for _, d := range l.ofJob {
		to <- prometheus.MustNewConstMetric(d.desc, d.kind, d.value(&p))
	}
}

// watermarkLag returns how far a subtask is behind the clock in event time, or false if it has no
// watermark or is at the end.
func watermarkLag(s *stream.SubtaskProgress, now time.Time) (time.Duration, bool) {
	if s.Watermark == async.NoTime || s.Watermark == async.EndOfTime {
		return 0, false
	}
	return now.Sub(s.Watermark.Time()), true
}

// timesMetric returns an operator's histogram in Prometheus' form, in which buckets are cumulative.
func timesMetric(d *prometheus.Desc, h *async.Histogram, labels ...string) prometheus.Metric {
	buckets, below := make(map[float64]uint64, async.HistogramBuckets), uint64(0)
	for i, n := range h.Buckets[:async.HistogramBuckets] {
		below += uint64(n)
		buckets[async.HistogramBound(i).Seconds()] = below
	}
	return prometheus.MustNewConstHistogram(d, uint64(h.Count()), h.Sum.Seconds(), buckets, labels...)
}
