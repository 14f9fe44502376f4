package server_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/tensor"
)

// If a model fails to load, the others are served and the failed one is named. The server is not
// ready if Strict is set or no model is loaded.
func TestLoading(t *testing.T) {
	for name, c := range map[string]struct {
		strict, alone bool
		settled       string // what health says when all is settled
	}{
		"others serve": {false, false, "200 READY|bad FAILED|boom FAILED SERVING, of m: 200 READY, of bad: 503 NOT_READY, of nobody: 404 no such model; ServerReady true"},
		"strict":       {true, false, "503 NOT_READY|bad FAILED|boom FAILED NOT_SERVING, of m: 200 READY, of bad: 503 NOT_READY, of nobody: 404 no such model; ServerReady false"},
		"no others":    {false, true, "503 NOT_READY|bad FAILED|boom FAILED NOT_SERVING, of m: 404 no such model, of bad: 503 NOT_READY, of nobody: 404 no such model; ServerReady false"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { loading(t, c.strict, c.alone, c.settled) })
		})
	}
}

func loading(t *testing.T, strict, alone bool, settled string) {
	lis := bufconn.Listen(1 << 16)
	cfg := server.Config{
		Strict:   strict,
		Backends: backend.Registry{Schemes: map[string]backend.Loader{"mock": mock.Loader()}},
		Models: []server.Model{{Name: "bad", Location: "mock:double?load_error=gone"},
			{Name: "boom", Location: "x", Load: func(context.Context) (backend.Model, error) { panic("boom") }}},
	}
	if !alone {
		cfg.Models = append(cfg.Models, server.Model{Name: "m", Location: "mock:double?load_time=1s"})
	}
	srv, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	if err := srv.Start(lis); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, srv: srv, lis: lis}
	c := r.caller()
	health := grpc_health_v1.NewHealthClient(r.conn())
	get := func(path string) string {
		w := httptest.NewRecorder()
		srv.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return fmt.Sprintf("%d %s", w.Code, strings.ReplaceAll(strings.TrimSpace(w.Body.String()), "\n", "|"))
	}
	status := func() string {
		h, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		ready, err := c.ServerReady(t.Context(), &oip.ServerReadyRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s %v, of m: %s, of bad: %s, of nobody: %s; ServerReady %v", get("/health"), h.Status,
			get("/health/m"), get("/health/bad"), get("/health/nobody"), ready.Ready)
	}
	synctest.Wait()
	if !alone {
		_, err = c.ModelInfer(t.Context(), ask(1))
		if d := oip.Parse(err); d.Code != codes.Unavailable || d.Reason != oip.ReasonModelLoading || d.RetryAfter != server.DefaultRetryDelay {
			t.Errorf("while it loads: %v", err)
		}
		if got := status(); !strings.HasPrefix(got, "503 NOT_READY|bad FAILED|boom FAILED NOT_SERVING, of m: 503 NOT_READY") {
			t.Errorf("while it loads: %s", got)
		}
	}
	err = srv.WaitReady(t.Context())
	if err == nil || !strings.Contains(err.Error(), `model "bad"`) || !strings.Contains(err.Error(), "gone") || !strings.Contains(err.Error(), "boom") {
		t.Errorf("WaitReady: %v", err)
	}
	synctest.Wait()
	if !alone {
		resp, err := c.ModelInfer(t.Context(), ask(1))
		doubled(t, resp, err, 1)
	}
	for _, name := range []string{"bad", "boom"} {
		q := ask(1)
		q.ModelName = name
		_, err = c.ModelInfer(t.Context(), q)
		if d := oip.Parse(err); d.Code != codes.FailedPrecondition || d.Reason != oip.ReasonModelLoadFailed {
			t.Errorf("%s: %v", name, err)
		}
		if ready, err := c.ModelReady(t.Context(), &oip.ModelReadyRequest{Name: name}); err != nil || ready.Ready {
			t.Errorf("%s is ready: %v, %v", name, ready, err)
		}
	}
	if got := status(); got != settled {
		t.Errorf("when all is settled: %s\nwant %s", got, settled)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{Grace: 10 * time.Second}, mock.Config{Latency: 3 * time.Second})
		c, conn := r.caller(), r.conn()
		watch, err := grpc_health_v1.NewHealthClient(conn).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if first, err := watch.Recv(); err != nil || first.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Fatalf("watch: %v, %v", first, err)
		}
		var wg sync.WaitGroup
		for i := range 3 { // one runs, two wait
			wg.Go(func() {
				resp, err := c.ModelInfer(t.Context(), ask(float32(i)))
				doubled(t, resp, err, float32(i))
			})
		}
		time.Sleep(time.Second)
		began := time.Now()
		wg.Go(func() {
			if err := r.srv.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		_, err = c.ModelInfer(t.Context(), ask(9))
		if d := oip.Parse(err); d.Code != codes.Unavailable || d.Reason != oip.ReasonDraining || d.RetryAfter == 0 {
			t.Errorf("while it drains: %v", err)
		}
		if r.srv.Ready() {
			t.Error("a draining server says that it is ready")
		}
		if live, err := c.ServerReady(t.Context(), &oip.ServerReadyRequest{}); err != nil || live.Ready {
			t.Errorf("ServerReady: %v, %v", live, err)
		}
		wg.Wait()
		if d := time.Since(began); d != 5*time.Second {
			t.Errorf("it took %v; what was admitted takes 2 s and 3 s", d)
		}
		for err = nil; err == nil; {
			_, err = watch.Recv()
		}
		if n := r.srv.Connections(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
		if !r.model.Closed() {
			t.Error("the model is not closed")
		}
	})
}

// The error of a stopping server says whether the model may have had the request: DRAINING if it
// was never taken, INTERRUPTED if it was abandoned half-way. That holds for calls and for streams,
// with a grace period that ends and without one.
func TestShutdownBeyondGrace(t *testing.T) {
	for name, grace := range map[string]time.Duration{"grace": 2 * time.Second, "none": -1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := serve(t, server.Config{Grace: grace, MaxBatch: 2, QueueTimeout: time.Hour}, mock.Config{Latency: time.Second, Faults: []mock.Fault{
					{Kind: mock.Hang, First: 2}}})
				c := r.caller()
				stream, err := r.caller().ModelStreamInfer(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				want := func(rows int, reason string) {
					wg.Go(func() {
						_, err := c.ModelInfer(t.Context(), ask(make([]float32, rows)...))
						// Without grace the connection may end before the answer.
						if d := oip.Parse(err); d.Code != codes.Unavailable || d.Reason != reason && (grace > 0 || d.Reason != "") {
							t.Errorf("of %d rows, want %s: %v", rows, reason, err)
						}
					})
					synctest.Wait()
				}
				want(5, oip.ReasonInterrupted) // two rows have run, two run, and one waits
				want(1, oip.ReasonDraining)
				if err := sent(stream.Send(ask(1))); err != nil {
					t.Fatal(err)
				}
				time.Sleep(1500 * time.Millisecond)
				began := time.Now()
				if err := r.srv.Shutdown(context.Background()); err != nil {
					t.Error(err)
				}
				if d := time.Since(began); d != max(grace, 0) {
					t.Errorf("it took %v", d)
				}
				wg.Wait()
				got, err := stream.Recv()
				switch reason := got.GetInferResponse().GetParameters()["error_reason"].GetStringParam(); {
				case err == nil && reason != oip.ReasonDraining:
					t.Errorf("on the stream: %v", got)
				case err != nil && grace > 0:
					t.Errorf("on the stream: %v", err)
				}
			})
		})
	}
}

// Close names a backend that never returns, and does not wait for it for ever.
func TestShutdownWithStubbornBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := mock.New(mock.Config{})
		if err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		r := serveModel(t, server.Config{Grace: -1}, badModel{m, func(int64) ([]tensor.Tensor, error) { <-release; return nil, errors.New("at last") }})
		go r.caller().ModelInfer(t.Context(), ask(1))
		synctest.Wait()
		if err := r.srv.Close(); err == nil || !strings.Contains(err.Error(), `backend of model "m" does not return`) {
			t.Errorf("Close: %v", err)
		}
		close(release)
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{Latency: 2 * time.Millisecond})
		c := r.caller()
		resp, err := c.ModelInfer(t.Context(), ask(1, 2, 3))
		doubled(t, resp, err, 1, 2, 3)
		if _, err := c.ModelInfer(t.Context(), &oip.ModelInferRequest{ModelName: "z"}); err == nil {
			t.Error("no error")
		}
		synctest.Wait()
		w := httptest.NewRecorder()
		r.srv.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		for _, want := range []string{
			`tensorferry_sidecar_requests_total{code="OK",model="m"} 1`,
			`tensorferry_sidecar_requests_total{code="NotFound",model=""} 1`,
			`tensorferry_sidecar_rejections_total{reason="MODEL_NOT_FOUND"} 1`,
			`tensorferry_sidecar_batch_rows_sum{model="m"} 3`,
			`tensorferry_sidecar_stage_seconds_sum{model="m",stage="compute"} 0.002`,
			`tensorferry_sidecar_stage_seconds_sum{model="m",stage="total"} 0.002`,
			`tensorferry_sidecar_stage_seconds_count{model="m",stage="queue"} 1`,
			`tensorferry_sidecar_stage_seconds_count{model="m",stage="batch"} 1`,
			`tensorferry_sidecar_stage_seconds_count{model="m",stage="write"} 1`,
			`tensorferry_sidecar_queue_rows 0`, `tensorferry_sidecar_queue_bytes 0`, `tensorferry_sidecar_in_flight_requests 0`,
			`tensorferry_sidecar_connections 1`,
		} {
			if !strings.Contains(w.Body.String(), want+"\n") {
				t.Errorf("/metrics lacks %s; it is\n%s", want, w.Body)
			}
		}
		// The document lists exactly the metrics that are served.
		docs, err := os.ReadFile("../../docs/sidecar.md")
		if err != nil {
			t.Fatal(err)
		}
		var served, listed []string
		for _, m := range regexp.MustCompile(`(?m)^# TYPE tensorferry_sidecar_(\w+) (\w+)$`).FindAllStringSubmatch(w.Body.String(), -1) {
			served = append(served, m[1]+" "+m[2])
		}
		for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (counter|gauge|histogram) \\|").FindAllStringSubmatch(string(docs), -1) {
			listed = append(listed, m[1]+" "+m[2])
		}
		slices.Sort(served)
		slices.Sort(listed)
		if !slices.Equal(served, listed) {
			t.Errorf("docs/sidecar.md lists %v, and %v are served", listed, served)
		}
	})
}

// Several real endpoints at once, by Serve, until its context ends.
func TestServeRealEndpoints(t *testing.T) {
	dir, err := os.MkdirTemp("", "srv")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	srv, err := server.New(server.Config{Models: []server.Model{{Name: "m", Location: "mock:double"}},
		Backends: backend.Registry{Schemes: map[string]backend.Loader{"mock": mock.Loader()}}})
	if err != nil {
		t.Fatal(err)
	}
	var listeners []net.Listener
	var targets []string
	for _, text := range []string{"unix://" + dir + "/s.sock", "127.0.0.1:0"} {
		e, err := endpoint.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		l, err := e.Listen()
		if err != nil {
			t.Fatal(err)
		}
		at, err := endpoint.FromAddr(l.Addr())
		if err != nil {
			t.Fatal(err)
		}
		listeners, targets = append(listeners, l), append(targets, at.GRPCTarget())
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- srv.Serve(ctx, listeners...) }()
	if err := srv.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := oip.NewGRPCInferenceServiceClient(conn).ModelInfer(t.Context(), ask(3))
		doubled(t, resp, err, 3)
		conn.Close()
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/s.sock"); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	if err := srv.Start(listeners...); err == nil {
		t.Error("a stopped server started again")
	}
}

func TestConfigErrors(t *testing.T) {
	for want, cfg := range map[string]server.Config{
		"no models":                 {},
		"has no name":               {Models: []server.Model{{Location: "x"}}},
		`two models have the name`:  {Models: []server.Model{{Name: "m", Location: "x"}, {Name: "m", Location: "y"}}},
		`model "m" has no location`: {Models: []server.Model{{Name: "m"}}},
		"MaxBatch is -1":            {Models: []server.Model{{Name: "m", Location: "x"}}, MaxBatch: -1},
		"QueueTimeout is -1s; want": {Models: []server.Model{{Name: "m", Location: "x"}}, QueueTimeout: -time.Second},
	} {
		if _, err := server.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one that says %q", err, want)
		}
	}
}
