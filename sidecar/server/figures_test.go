package server_test

import (
	"context"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/tensor"
)

var sidecarFigure = regexp.MustCompile(`(?m)^tensorferry_sidecar_(\S+) (\S+)$`)

// shown returns what /metrics shows now, by name and labels, without the prefix.
func (r *rig) shown() map[string]float64 {
	r.t.Helper()
	synctest.Wait()
	return r.figures()
}

func (r *rig) figures() map[string]float64 {
	r.t.Helper()
	w := httptest.NewRecorder()
	r.srv.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	all := map[string]float64{}
	for _, m := range sidecarFigure.FindAllStringSubmatch(w.Body.String(), -1) {
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			r.t.Error(err)
		}
		all[m[1]] = v
	}
	return all
}

const second = time.Second

// sidecarScenes make every metric of a sidecar move by a known amount. Each is named after what
// happens in it. send sends a request in the background.
var sidecarScenes = []struct {
	name  string
	cfg   server.Config
	model mock.Config
	play  func(r *rig, send func(vs ...float32), want func(figs map[string]float64))
}{
	// All of a request counts: its two numbers take 8 bytes; its names, shapes and parts take
	// the others.
	{"a request that waits behind another", server.Config{}, mock.Config{Latency: 2 * second}, func(_ *rig, send func(...float32), want func(map[string]float64)) {
		send(1, 2, 3)
		time.Sleep(second)
		send(4, 5)
		want(map[string]float64{"in_flight_requests": 2, "queue_rows": 2, "queue_bytes": 230, "connections": 1, "calls": 2, `requests_total{code="OK",model="m"}`: 0})
		time.Sleep(5 * second)
		want(map[string]float64{"in_flight_requests": 0, "queue_rows": 0, "queue_bytes": 0, "calls": 0, `requests_total{code="OK",model="m"}`: 2,
			`batch_rows_count{model="m"}`: 2, `batch_rows_sum{model="m"}`: 5, `failed_batches_total{model="m"}`: 0,
			`stage_seconds_count{model="m",stage="total"}`: 2, `stage_seconds_sum{model="m",stage="total"}`: 2 + 3,
			`stage_seconds_count{model="m",stage="queue"}`: 2, `stage_seconds_sum{model="m",stage="queue"}`: 1,
			`stage_seconds_count{model="m",stage="compute"}`: 2, `stage_seconds_sum{model="m",stage="compute"}`: 4})
	}},
	{"a batch that fails, and the search for its row", server.Config{}, mock.Config{Faults: []mock.Fault{{Kind: mock.Fail, Error: backend.Error{Code: codes.Internal, Reason: oip.ReasonBackendError}, Row: new(3.0)}}},
		func(_ *rig, send func(...float32), want func(map[string]float64)) {
			send(1, 2, 3, 4) // all, then 1 and 2, then 3 and 4, then 3, and then 4
			want(map[string]float64{`requests_total{code="Internal",model="m"}`: 1, `rejections_total{reason="BACKEND_ERROR"}`: 1,
				`failed_batches_total{model="m"}`: 3, `batch_rows_count{model="m"}`: 5, `batch_rows_sum{model="m"}`: 4 + 2 + 2 + 1 + 1})
		}},
	{"a queue that is full", server.Config{QueueRows: 4}, mock.Config{Latency: second}, func(_ *rig, send func(...float32), want func(map[string]float64)) {
		send(1)
		send(2, 3, 4)
		send(5, 6)
		want(map[string]float64{`rejections_total{reason="QUEUE_FULL"}`: 1, `requests_total{code="ResourceExhausted",model="m"}`: 1, "in_flight_requests": 2, "queue_rows": 3})
		time.Sleep(5 * second)
	}},
	{"a wait that is too long", server.Config{QueueTimeout: second}, mock.Config{Latency: 2 * second}, func(_ *rig, send func(...float32), want func(map[string]float64)) {
		send(1)
		send(2)
		time.Sleep(5 * second)
		want(map[string]float64{`rejections_total{reason="QUEUE_TIMEOUT"}`: 1, `requests_total{code="DeadlineExceeded",model="m"}`: 1,
			`stage_seconds_count{model="m",stage="queue"}`: 1, `stage_seconds_count{model="m",stage="total"}`: 2, `batch_rows_count{model="m"}`: 1})
	}},
	// The buffer takes the 10,000 bytes of the request. Each byte after the first 4 KiB takes 7
	// more while it is read. The call itself has room for 32 KiB of that.
	{"a request that does not arrive", server.Config{}, mock.Config{}, func(r *rig, _ func(...float32), want func(map[string]float64)) {
		part := message(0, make([]byte, 10000))[:9000]
		a := r.attack(65535)
		a.open(1, "ModelInfer")
		a.send(1, part[:4000], 500)
		want(map[string]float64{"receive_bytes": 0, "calls": 1})
		a.send(1, part[4000:], 500)
		want(map[string]float64{"receive_bytes": 10000 + 7*(10000-4096) - 32768, "calls": 1, `turned_away_total{door="late"}`: 0})
		time.Sleep(server.DefaultReceiveTimeout - time.Nanosecond)
		want(map[string]float64{"calls": 1})
		time.Sleep(time.Nanosecond)
		want(map[string]float64{"receive_bytes": 0, "calls": 0, `turned_away_total{door="late"}`: 1, "connections": 1})
		a.open(3, "ModelInfer") // its request never begins
		time.Sleep(server.DefaultReceiveTimeout)
		want(map[string]float64{"calls": 0, `turned_away_total{door="late"}`: 2})
		// A stream may wait long for its next request, but not for the rest of one.
		a.open(5, "ModelStreamInfer")
		time.Sleep(server.DefaultStreamIdleTimeout - time.Nanosecond)
		want(map[string]float64{`turned_away_total{door="late"}`: 2})
		a.send(5, part, 500)
		time.Sleep(server.DefaultReceiveTimeout)
		want(map[string]float64{"receive_bytes": 0, `turned_away_total{door="late"}`: 3, "connections": 1})
		a.open(7, "ModelStreamInfer")
		time.Sleep(server.DefaultStreamIdleTimeout - time.Nanosecond)
		want(map[string]float64{`turned_away_total{door="idle"}`: 0})
		time.Sleep(time.Nanosecond)
		want(map[string]float64{`turned_away_total{door="idle"}`: 1, `turned_away_total{door="late"}`: 3, "connections": 1})
	}},
	{"an answer that is not read", server.Config{}, mock.Config{}, func(r *rig, send func(...float32), want func(map[string]float64)) {
		a := r.attack(0)
		a.open(1, "ModelInfer")
		b, err := proto.Marshal(ask(1, 2, 3))
		if err != nil {
			r.t.Fatal(err)
		}
		a.send(1, message(0, b), 500)
		send(4) // this answer is read
		want(map[string]float64{"answer_bytes": 35, "calls": 1, "connections": 2, `requests_total{code="OK",model="m"}`: 2})
		time.Sleep(server.DefaultAnswerTimeout)
		want(map[string]float64{"answer_bytes": 0, "calls": 0, "connections": 1, `turned_away_total{door="unread"}`: 1})
	}},
	{"a body that does not fit, a call too many, a connection too many", server.Config{MaxMessageSize: 100, MaxCalls: 1, MaxConnections: 2}, mock.Config{Latency: second},
		func(r *rig, send func(...float32), want func(map[string]float64)) {
			send(sequence(0, 100)...)
			want(map[string]float64{`turned_away_total{door="size"}`: 1, "calls": 0})
			send(1)
			send(2)
			want(map[string]float64{`turned_away_total{door="call"}`: 1, "calls": 1})
			r.attack(0)
			r.attack(0)
			want(map[string]float64{`turned_away_total{door="connection"}`: 1, "connections": 2})
			time.Sleep(second)
		}},
}

// TestFigures: every metric of a sidecar has the right value after each scene, and every metric is
// moved by a scene.
func TestFigures(t *testing.T) {
	moved := map[string]bool{}
	for _, c := range sidecarScenes {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := serve(t, c.cfg, c.model)
				caller := r.caller()
				send := func(vs ...float32) {
					go caller.ModelInfer(t.Context(), ask(vs...))
					synctest.Wait()
				}
				c.play(r, send, func(figs map[string]float64) {
					t.Helper()
					all := r.shown()
					for name, want := range figs {
						if got := all[name]; got < want-1e-9 || got > want+1e-9 {
							t.Errorf("%s is %v, want %v", name, got, want)
						}
						if base, _, _ := strings.Cut(name, "{"); want != 0 {
							moved[strings.TrimSuffix(strings.TrimSuffix(base, "_count"), "_sum")] = true
						}
					}
				})
			})
		})
	}
	// TestMetrics checks that this document lists the metrics.
	docs, err := os.ReadFile("../../docs/sidecar.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (counter|gauge|histogram) \\|").FindAllStringSubmatch(string(docs), -1) {
		if n++; !moved[m[1]] {
			t.Errorf("no scene moves %s", m[1])
		}
	}
	if n < 8 {
		t.Errorf("%d metrics", n)
	}
}

// panicking panics at the n-th run.
type panicking struct {
	*mock.Model
	left int
}

func (p *panicking) Run(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
	if p.left--; p.left == 0 {
		time.Sleep(time.Second)
		panic("sprung")
	}
	return p.Model.Run(ctx, in)
}

// TestFiguresOfAPanic: a batch in which the backend panicked was run, and took its time.
func TestFiguresOfAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := mock.New(mock.Config{})
		if err != nil {
			t.Fatal(err)
		}
		r := serveModel(t, server.Config{}, backend.Model(&panicking{m, 1}))
		if _, err := r.caller().ModelInfer(t.Context(), ask(1)); err == nil {
			t.Error("no error")
		}
		all := r.shown()
		for name, want := range map[string]float64{`batch_rows_sum{model="m"}`: 1, `failed_batches_total{model="m"}`: 1,
			`stage_seconds_sum{model="m",stage="compute"}`: 1, `requests_total{code="Internal",model="m"}`: 1} {
			if all[name] != want {
				t.Errorf("%s is %v, want %v", name, all[name], want)
			}
		}
	})
}

// TestStatisticsOfAFailure: the rows of a request that failed in the end do not count as answered,
// although one of its batches succeeded. The two batches of one request count as one inference of
// all its rows.
func TestStatisticsOfAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{MaxBatch: 2}, mock.Config{Latency: second, Faults: []mock.Fault{{Kind: mock.Fail, Error: backend.Error{Code: codes.Internal, Reason: oip.ReasonBackendError}, Row: new(3.0)}}})
		c := r.caller()
		resp, err := c.ModelInfer(t.Context(), ask(5, 6, 7))
		doubled(t, resp, err, 5, 6, 7)
		if _, err := c.ModelInfer(t.Context(), ask(1, 2, 3)); err == nil {
			t.Error("no error")
		}
		got, err := c.ModelStatistics(t.Context(), &oip.ModelStatisticsRequest{Name: "m"})
		if err != nil || len(got.ModelStats) != 1 {
			t.Fatal(got, err)
		}
		s := got.ModelStats[0]
		if s.InferenceCount != 3 || s.ExecutionCount != 3 || s.InferenceStats.Success.Count != 1 || s.InferenceStats.Fail.Count != 1 || s.InferenceStats.Queue.Count != 1 {
			t.Errorf("%v", s)
		}
	})
}
