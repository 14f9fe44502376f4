package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/job/local"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

// scene is a job with the metrics of a command, in virtual time.
type scene struct {
	*testing.T
	m     *metrics
	run   *stream.Run
	moved map[string]bool // metrics that were something else than 0
}

// want compares figures of the page, summed over subtasks. "name operator" is the figure of one
// operator. A histogram has name_count and name_sum.
func (s *scene) want(when string, figs map[string]float64) {
	s.Helper()
	synctest.Wait()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(s.m.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	all := figures(s.T, w.Body.String())
	for key, want := range figs {
		name, operator, _ := strings.Cut(key, " ")
		if got := sum(all, name, operator); got < want-1e-9 || got > want+1e-9 {
			s.Errorf("%s: %s is %v, want %v", when, key, got, want)
		}
		if want != 0 {
			s.moved[strings.TrimSuffix(strings.TrimSuffix(name, "_count"), "_sum")] = true
		}
	}
}

// start runs numbers through a function, in a job like that of assemble.
func (s *scene) start(cfg stream.Config, source connector.Source[int], fn async.Function[int, int], acfg async.Config, opts ...stream.SourceOption) {
	cfg.Observer = s.m
	j := stream.New("j", cfg)
	in := stream.From(j, source, append(opts, stream.Name(local.SourceName))...)
	if acfg.OnError.Uses(async.DeadLetter) {
		answers, failed := stream.AsyncWithDeadLetters(in, fn, acfg, stream.Name(local.InferName))
		stream.Collect(answers, stream.Name(local.SinkName))
		stream.Collect(stream.Map(failed, func(async.Failed[int]) (int, error) { return 0, nil }, stream.Name(local.LetterName)), stream.Name(local.LettersName))
	} else {
		stream.Collect(stream.OrderedWait(in, fn, acfg, stream.Name(local.InferName)), stream.Name(local.SinkName))
	}
	s.run = j.Start(s.Context())
	s.m.watch(s.run, nil)
}

func (s *scene) end(want error) {
	s.Helper()
	if err := s.run.Wait(); !errors.Is(err, want) {
		s.Fatalf("the job ended with %v, want %v", err, want)
	}
}

// upTo is the numbers from 1 to n, each at the same second of event time.
type upTo int

func (n upTo) Splits(context.Context) ([]connector.Split, error)        { return []connector.Split{{}}, nil }
func (n upTo) Verify(context.Context, []connector.Split, []int64) error { return nil }
func (n upTo) Open(_ context.Context, _ connector.Split, at int64) (connector.Reader[int], error) {
	return &upToReader{n, at}, nil
}

type upToReader struct {
	n  upTo
	at int64
}

func (r *upToReader) Read(_ context.Context, dst []stream.Record[int], _ int) ([]stream.Record[int], int64, error) {
	if r.at == int64(r.n) {
		return dst, r.at, io.EOF
	}
	for ; r.at < int64(r.n); r.at++ {
		dst = append(dst, stream.Record[int]{Value: int(r.at) + 1, Position: r.at, Time: async.At(epoch.Add(time.Duration(r.at) * time.Second))})
	}
	return dst, r.at, nil
}

func (r *upToReader) Close() error { return nil }

// untimed is upTo with four records whose time is out of range.
type untimed struct{ upTo }

func (u untimed) Open(ctx context.Context, s connector.Split, at int64) (connector.Reader[int], error) {
	r, err := u.upTo.Open(ctx, s, at)
	return &untimedReader{r}, err
}

type untimedReader struct{ connector.Reader[int] }

func (r *untimedReader) Read(ctx context.Context, dst []stream.Record[int], most int) ([]stream.Record[int], int64, error) {
	dst, next, err := r.Reader.Read(ctx, dst, most)
	for i := range dst[:min(4, len(dst))] {
		dst[i].Time = async.BadTime
	}
	return dst, next, err
}

// lingering is upTo with an end that is an hour late.
type lingering struct{ upTo }

func (l lingering) Open(ctx context.Context, s connector.Split, at int64) (connector.Reader[int], error) {
	r, err := l.upTo.Open(ctx, s, at)
	return &lingeringReader{r}, err
}

type lingeringReader struct{ connector.Reader[int] }

func (r *lingeringReader) Read(ctx context.Context, dst []stream.Record[int], most int) ([]stream.Record[int], int64, error) {
	dst, next, err := r.Reader.Read(ctx, dst, most)
	if err == io.EOF {
		time.Sleep(time.Hour)
	}
	return dst, next, err
}

// epoch is the time at which synctest bubbles begin.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// each answers every number by itself.
func each(f func(ctx context.Context, v int) error) async.Function[int, int] {
	return async.Func(func(ctx context.Context, v int) (int, error) { return v, f(ctx, v) }, 100)
}

// takes answers each number after its time, and numbers without a time at once.
func takes(long map[int]time.Duration) async.Function[int, int] {
	return each(func(ctx context.Context, v int) error {
		select {
		case <-time.After(long[v]):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// told is a failure with a given verdict.
type told async.Verdict

func (told) Error() string            { return "as told" }
func (v told) Verdict() async.Verdict { return async.Verdict(v) }

// fails makes each number fail the given number of times.
func fails(as async.Verdict, times map[int]int) async.Function[int, int] {
	var mu sync.Mutex
	return each(func(_ context.Context, v int) error {
		mu.Lock()
		defer mu.Unlock()
		if times[v]--; times[v] >= 0 {
			return told(as)
		}
		return nil
	})
}

// falling makes a fallback result for every failure.
type falling struct{ async.Function[int, int] }

func (falling) Fallback(async.Failed[int]) (async.Outputs[int], error) { return async.One(0), nil }

// away cannot be called for the given time from the start.
type away struct {
	async.Function[int, int]
	long time.Duration
}

func (a away) Open(ctx context.Context, sub async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	done.Suspend(errors.New("away"))
	time.AfterFunc(a.long, done.Resume)
	return a.Function.Open(ctx, sub, done)
}

// slowStore takes half a second to keep a checkpoint, except the first one.
type slowStore struct{ stream.CheckpointStore }

func (s slowStore) Write(ctx context.Context, c *checkpoint.Snapshot) error {
	if c.ID > 0 {
		time.Sleep(500 * time.Millisecond)
	}
	return s.CheckpointStore.Write(ctx, c)
}

// scenes make every metric of a job move by a known amount. Each has the name of what happens in
// it.
var scenes = []struct {
	name string
	play func(s *scene)
}{
	{"before it begins", func(s *scene) {
		s.want("", map[string]float64{"ready": 0, "restarts_total": 0, "published_results": 0, "last_checkpoint_timestamp_seconds": 0})
	}},
	{"ten records, of which the first is slow", func(s *scene) {
		s.start(stream.Config{}, upTo(10), takes(map[int]time.Duration{1: 100 * ms}), async.Config{Capacity: 20, MaxCalls: 10})
		time.Sleep(50 * ms)
		s.want("in the middle", map[string]float64{
			"ready": 1, "records_in_total source": 10, "records_in_total infer": 10, "calls_total infer": 10, "records_out_total infer": 0,
			"queued_records infer": 10, "in_flight_calls infer": 1, "parked_results infer": 9, "call_limit infer": 10, "connected infer": 1,
			"call_seconds_count infer": 9, "latency_seconds_count infer": 0, "head_of_line_wait_seconds_count infer": 0,
		})
		s.end(nil)
		s.want("at the end", map[string]float64{
			"ready": 0, "records_in_total sink": 10, "records_out_total infer": 10, "records_out_total sink": 10, "published_results": 10,
			"queued_records infer": 0, "in_flight_calls infer": 0, "parked_results infer": 0, "call_limit infer": 0, "connected infer": 0,
			"call_seconds_count infer": 10, "call_seconds_sum infer": 0.1, "latency_seconds_count infer": 10, "latency_seconds_sum infer": 1,
			"head_of_line_wait_seconds_count infer": 10, "head_of_line_wait_seconds_sum infer": 0.9, "timeouts_total infer": 0,
			"checkpoints_completed_total": 1, "last_checkpoint_timestamp_seconds": float64(epoch.Unix()) + 0.1,
		})
	}},
	{"a timeout that ends the job", func(s *scene) {
		s.start(stream.Config{}, upTo(10), takes(map[int]time.Duration{3: time.Hour}), async.Config{Timeout: time.Second})
		s.end(async.ErrTimeout)
		s.want("at the end", map[string]float64{"timeouts_total infer": 1, "calls_total infer": 10, "call_seconds_count infer": 10, "records_out_total infer": 2,
			"call_seconds_sum infer": 1, "published_results": 0, "records_dropped_total infer": 0})
	}},
	{"timeouts that are dropped", func(s *scene) {
		s.start(stream.Config{}, upTo(10), takes(map[int]time.Duration{3: time.Hour, 4: time.Hour}),
			async.Config{Timeout: time.Second, OnError: async.OnError{Timeout: async.Drop}})
		s.end(nil)
		s.want("at the end", map[string]float64{"timeouts_total infer": 2, "records_dropped_total infer": 2, "records_out_total infer": 8, "published_results": 8})
	}},
	{"dead letters", func(s *scene) {
		s.start(stream.Config{}, upTo(10), fails(async.Verdict{Class: async.BadRecord}, map[int]int{2: 1, 5: 1, 7: 1}),
			async.Config{OnError: async.OnError{BadRecord: async.DeadLetter}})
		s.end(nil)
		s.want("at the end", map[string]float64{"records_dead_lettered_total infer": 3, "records_in_total dead-letter": 3, "records_in_total dead-letters": 3,
			"records_in_total sink": 7, "published_results": 7})
	}},
	{"fallbacks", func(s *scene) {
		s.start(stream.Config{}, upTo(10), falling{fails(async.Verdict{}, map[int]int{2: 1, 5: 1})}, async.Config{OnError: async.OnError{Backend: async.Fallback}})
		s.end(nil)
		s.want("at the end", map[string]float64{"fallbacks_total infer": 2, "records_out_total infer": 10, "records_dropped_total infer": 0})
	}},
	{"retries", func(s *scene) {
		s.start(stream.Config{}, upTo(10), fails(async.Verdict{Retry: true}, map[int]int{2: 2, 5: 1}),
			async.Config{Retry: async.Retry{Max: 2, Delay: time.Second, Jitter: async.Off}})
		time.Sleep(500 * ms)
		s.want("before the first", map[string]float64{"retrying_records infer": 2, "retries_total infer": 0, "calls_total infer": 10})
		s.end(nil)
		s.want("at the end", map[string]float64{"retrying_records infer": 0, "retries_total infer": 3, "calls_total infer": 13, "call_seconds_count infer": 13})
	}},
	{"an overload", func(s *scene) {
		s.start(stream.Config{}, upTo(10), fails(async.Verdict{Class: async.Overload, Hold: true, RetryAfter: time.Second}, map[int]int{2: 1, 5: 1}),
			async.Config{MaxCalls: 64})
		time.Sleep(500 * ms)
		s.want("while it lasts", map[string]float64{"held_records infer": 2, "holds_total infer": 2, "call_limit infer": 32, "connected infer": 1})
		s.end(nil)
		s.want("at the end", map[string]float64{"held_records infer": 0, "holds_total infer": 2, "calls_total infer": 12, "retries_total infer": 0})
	}},
	{"a server that is away", func(s *scene) {
		s.start(stream.Config{}, upTo(10), away{takes(nil), time.Second}, async.Config{})
		time.Sleep(500 * ms)
		s.want("while it lasts", map[string]float64{"connected infer": 0, "held_records infer": 10, "holds_total infer": 10, "calls_total infer": 0, "ready": 1})
		s.end(nil)
		s.want("at the end", map[string]float64{"held_records infer": 0, "holds_total infer": 10, "calls_total infer": 10})
	}},
	{"a restart", func(s *scene) {
		s.start(stream.Config{Restart: restart.Config{Strategy: restart.FixedDelay, Delay: time.Minute}}, upTo(10),
			fails(async.Verdict{}, map[int]int{4: 1}), async.Config{Retry: async.Retry{Max: async.Off}})
		time.Sleep(30 * time.Second)
		s.want("before it", map[string]float64{"restarts_total": 1, "ready": 0, "connected infer": 0, "queued_records infer": 0, "records_in_total infer": 10, "published_results": 0})
		s.end(nil)
		s.want("at the end", map[string]float64{"restarts_total": 1, "records_in_total infer": 20, "calls_total infer": 20, "published_results": 10})
	}},
	{"a drain, and a store that is slow", func(s *scene) {
		s.start(stream.Config{Checkpoint: stream.CheckpointConfig{Interval: time.Second, Store: slowStore{stream.NewMemoryStore()}}}, upTo(10),
			takes(map[int]time.Duration{10: 3 * time.Second}), async.Config{})
		time.Sleep(3700 * ms) // 2 s behind the barrier, and half a second
		s.want("behind the first", map[string]float64{"drain_seconds_count infer": 1, "drain_seconds_sum infer": 2, "checkpoints_completed_total": 1,
			"checkpoint_seconds_count": 1, "checkpoint_seconds_sum": 2.5, "commit_seconds_count": 1, "commit_seconds_sum": 0.5,
			"last_checkpoint_timestamp_seconds": float64(epoch.Unix()) + 3.5, "published_results": 10})
		s.end(nil)
	}},
	{"a checkpoint that is given up", func(s *scene) {
		s.start(stream.Config{Checkpoint: stream.CheckpointConfig{Interval: time.Second, Timeout: 2 * time.Second, TolerableFailures: 5}}, upTo(10),
			takes(map[int]time.Duration{10: 3500 * ms}), async.Config{})
		time.Sleep(3200 * ms)
		s.want("behind it", map[string]float64{"checkpoints_failed_total": 1, "checkpoints_completed_total": 0, "checkpoint_seconds_count": 0,
			"drain_seconds_count infer": 1, "drain_seconds_sum infer": 2, "last_checkpoint_timestamp_seconds": 0})
		s.end(nil)
	}},
	{"event time, and records that nobody has read", func(s *scene) {
		s.start(stream.Config{}, lingering{10}, takes(map[int]time.Duration{3: 30 * time.Second}), async.Config{Timeout: time.Hour}, stream.BoundedOutOfOrderness(5*time.Second))
		s.m.watch(s.run, func() (int64, bool) { return 42, true })
		time.Sleep(20 * time.Second)
		// The newest record is of second 9, so the watermark is 1 ms before second 4. Behind
		// record 3 it has not left.
		s.want("while one is slow", map[string]float64{"watermark_lag_seconds source": 16.001, "watermark_lag_seconds infer": 0, "consumer_lag_records": 42})
		time.Sleep(20 * time.Second)
		s.want("later", map[string]float64{"watermark_lag_seconds source": 36.001, "watermark_lag_seconds infer": 36.001, "watermark_lag_seconds sink": 36.001})
		s.m.watch(s.run, func() (int64, bool) { return 0, false })
		s.want("when nobody knows", map[string]float64{"consumer_lag_records": 0})
		s.end(nil)
		s.want("at the end of the input", map[string]float64{"watermark_lag_seconds source": 0})
	}},
	{"times that are none, and records that were gone", func(s *scene) {
		s.m.skipped = func() int64 { return 5 }
		s.start(stream.Config{}, untimed{upTo(10)}, takes(nil), async.Config{})
		s.end(nil)
		s.want("at the end", map[string]float64{"records_untimed_total": 4, "records_skipped_total": 5})
	}},
	{"answers that are no numbers", func(s *scene) {
		var n atomic.Int64
		n.Store(3)
		s.m.notNumbers = n.Load
		s.start(stream.Config{}, upTo(10), takes(nil), async.Config{})
		s.end(nil)
		s.want("at the end", map[string]float64{"not_numbers_total": 3})
	}},
	{"requests", func(s *scene) {
		srv := sidecartest.Start(s.T, sidecartest.Script{Latency: 20 * ms})
		cfg := sidecar.Config{Endpoint: srv.Endpoint(), Dialer: srv.Dialer(), Model: srv.Model(), MaxBatch: 3, Window: 1, Observe: s.m.request}
		j := stream.New("j", stream.Config{})
		var lines []json.RawMessage
		for i := range 7 {
			lines = append(lines, fmt.Appendf(nil, `{"x":[%d]}`, i))
		}
		fn := sidecar.NewAsyncFunction(cfg, jsoncodec.New(jsoncodec.Mapping{}))
		stream.Collect(stream.OrderedWait(stream.From(j, stream.FromSlice(lines)), fn, async.Config{}, stream.Name(local.InferName)))
		s.run = j.Start(s.Context())
		s.m.watch(s.run, nil)
		s.end(nil)
		// Three, three and one.
		s.want("at the end", map[string]float64{"request_seconds_count infer": 3, "request_seconds_sum infer": 0.06,
			"batch_rows_count infer": 3, "batch_rows_sum infer": 7, "calls_total infer": 7})
	}},
}

// TestFigures: every metric of a job has the right figure, and every metric is moved by a scene.
func TestFigures(t *testing.T) {
	moved := map[string]bool{}
	for _, c := range scenes {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { c.play(&scene{T: t, m: collectMetrics("j"), moved: moved}) })
		})
	}
	all := make(chan *prometheus.Desc, 1000)
	m := collectMetrics("j")
	for _, c := range []prometheus.Collector{m, m.checkpoint, m.commit, m.requestSeconds, m.batchRows} {
		c.Describe(all)
	}
	close(all)
	n := 0
	for d := range all {
		n++
		name := descName.FindStringSubmatch(d.String())
		if name == nil || !moved[name[1]] {
			t.Errorf("no scene moves %v", d)
		}
	}
	if n < 30 {
		t.Errorf("%d metrics", n)
	}
}

var descName = regexp.MustCompile(`fqName: "tensorferry_job_(\w+)"`)

const ms = time.Millisecond
