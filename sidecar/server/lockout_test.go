package server_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/tensor"
)

const (
	reflectionPath = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	watchPath      = "/grpc.health.v1.Health/Watch"
)

// wide is a request for one row of n numbers.
func wide(n int) *oip.ModelInferRequest {
	q := ask(make([]float32, n)...)
	q.Inputs[0].Shape = []int64{1, int64(n)}
	return q
}

// asks are the calls that must be answered while a server is attacked, each on its own connection:
// those of probes and of jobs that start, inferences of a few bytes, of half a window and of
// megabytes, and a stream.
var asks = map[string]map[string]func(context.Context, *grpc.ClientConn) error{
	"probes": {
		"live":     probe(oip.GRPCInferenceServiceClient.ServerLive, &oip.ServerLiveRequest{}),
		"ready":    probe(oip.GRPCInferenceServiceClient.ServerReady, &oip.ServerReadyRequest{}),
		"model":    probe(oip.GRPCInferenceServiceClient.ModelReady, &oip.ModelReadyRequest{Name: "m"}),
		"metadata": probe(oip.GRPCInferenceServiceClient.ModelMetadata, &oip.ModelMetadataRequest{Name: "m"}),
		"config":   probe(oip.GRPCInferenceServiceClient.ModelConfig, &oip.ModelConfigRequest{Name: "m"}),
		"server":   probe(oip.GRPCInferenceServiceClient.ServerMetadata, &oip.ServerMetadataRequest{}),
		"index":    probe(oip.GRPCInferenceServiceClient.RepositoryIndex, &oip.RepositoryIndexRequest{}),
		"check": func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := grpc_health_v1.NewHealthClient(c).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
			return err
		},
		"watch": func(ctx context.Context, c *grpc.ClientConn) error {
			w, err := grpc_health_v1.NewHealthClient(c).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
			if err == nil {
				_, err = w.Recv()
			}
			return err
		},
	},
	"inference": {"tiny": probe(oip.GRPCInferenceServiceClient.ModelInfer, wide(1)), "small": probe(oip.GRPCInferenceServiceClient.ModelInfer, wide(8<<10)),
		"medium": probe(oip.GRPCInferenceServiceClient.ModelInfer, wide(200<<10))},
	"large inference": {"large": probe(oip.GRPCInferenceServiceClient.ModelInfer, wide(900<<10))},
	"a stream": {"stream": func(ctx context.Context, c *grpc.ClientConn) error {
		stream, err := oip.NewGRPCInferenceServiceClient(c).ModelStreamInfer(ctx)
		if err != nil {
			return err
		}
		if err := sent(stream.Send(wide(1))); err != nil {
			return err
		}
		resp, err := stream.Recv()
		if err == nil && resp.ErrorMessage != "" {
			err = errors.New(resp.ErrorMessage)
		}
		return err
	}},
}

func probe[Q, A any](method func(oip.GRPCInferenceServiceClient, context.Context, *Q, ...grpc.CallOption) (*A, error), q *Q) func(context.Context, *grpc.ClientConn) error {
	return func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := method(oip.NewGRPCInferenceServiceClient(c), ctx, q)
		return err
	}
}

// declared opens n inferences that announce a size, and sends only a part of each.
func declared(n, size, sent int) func(*rig) {
	return func(r *rig) {
		b := message(0, make([]byte, size))[:5+sent]
		a := r.attack(65535)
		a.openAll(n, "ModelInfer")
		for i := range n {
			go a.send(uint32(2*i+1), b, 16<<10)
		}
	}
}

func opened(n int, path string) func(*rig) {
	return func(r *rig) { r.attack(65535).openAll(n, path) }
}

// TestNobodyIsLockedOut: attackers fill only the door that they attack. Meanwhile probes and jobs
// that start are answered at once, and so are all calls that pass other doors.
func TestNobodyIsLockedOut(t *testing.T) {
	few := server.Config{MaxMessageSize: 8 << 20, ReceiveBytes: 32 << 20, AnswerBytes: 8 << 20}
	for _, c := range []struct {
		name     string
		cfg      server.Config
		attack   func(*rig)
		answered []string
	}{
		{"large requests of which nothing comes", server.Config{}, declared(3, 60<<20, 0), []string{"probes", "inference", "large inference", "a stream"}},
		{"many large requests of which little comes", server.Config{}, declared(900, 60<<20, 4<<10), []string{"probes", "inference", "large inference", "a stream"}},
		{"many requests of a megabyte of which little comes", server.Config{}, declared(900, 1<<20, 4<<10), []string{"probes", "inference", "large inference", "a stream"}},
		{"many large requests of which a megabyte comes", server.Config{}, declared(30, 60<<20, 1<<20), []string{"probes", "inference", "large inference", "a stream"}},
		{"large requests of which half comes", few, declared(20, 8<<20-64, 4<<20), []string{"probes", "inference", "a stream"}},
		{"large requests of which all but a little comes", few, declared(20, 8<<20-64, 8<<20-200), []string{"probes", "inference", "a stream"}},
		{"requests of a megabyte of which all but a little comes", few, declared(100, 1<<20-64, 1<<20-200), []string{"probes", "large inference", "a stream"}},
		{"inferences without a request", server.Config{}, opened(1024, "ModelInfer"), []string{"probes"}},
		{"idle streams", server.Config{}, opened(600, "ModelStreamInfer"), []string{"probes", "inference", "large inference"}},
		{"idle streams of reflection", server.Config{}, opened(600, reflectionPath), []string{"probes", "inference", "large inference"}},
		{"watches", server.Config{}, func(r *rig) {
			a := r.attack(65535)
			for i := range uint32(600) {
				a.open(2*i+1, watchPath)
				a.frame(frameData, endStream, 2*i+1, message(0, nil))
			}
		}, []string{"probes", "inference", "large inference", "a stream"}},
		{"models that load for long", server.Config{Explicit: true}, func(r *rig) {
			a := r.attack(65535)
			for i := range uint32(600) {
				a.open(2*i+1, "RepositoryModelLoad")
				a.frame(frameData, endStream, 2*i+1, message(0, []byte{0x12, 1, 'm'}))
			}
		}, []string{"probes", "inference", "large inference", "a stream"}},
		{"answers that are not read", server.Config{AnswerBytes: 1}, func(r *rig) {
			b := message(0, oneRow(r.t, 1<<18))
			a := r.attack(0)
			a.openAll(30, "ModelInfer")
			for i := range uint32(30) {
				a.send(2*i+1, b, 16<<10)
				a.frame(frameData, endStream, 2*i+1, nil)
			}
		}, []string{"probes"}},
		{"other calls of which all but a little comes", few, func(r *rig) {
			a := r.attack(65535)
			a.openAll(200, "ModelMetadata")
			for i := range uint32(200) {
				a.send(2*i+1, message(0, make([]byte, 60<<10))[:59<<10], 16<<10)
			}
		}, []string{"probes", "inference", "large inference", "a stream"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, err := mock.New(mock.Config{Inputs: []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{-1}}}})
				if err != nil {
					t.Fatal(err)
				}
				var loads atomic.Int64
				c.cfg.Models = []server.Model{{Name: "m", Location: "test", Load: func(ctx context.Context) (backend.Model, error) {
					if loads.Add(1) > 1 {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return m, nil
				}}}
				r := begin(t, c.cfg)
				c.attack(r)
				for round := range 2 { // at once, and while it goes on
					synctest.Wait()
					for _, kind := range c.answered {
						for what, ask := range asks[kind] {
							ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
							began := time.Now()
							if err := ask(ctx, r.conn()); err != nil || time.Since(began) > 0 {
								t.Errorf("round %d: %s, %s: after %v: %v", round, kind, what, time.Since(began), err)
							}
							cancel()
						}
					}
					time.Sleep(2 * time.Second)
				}
			})
		})
	}
}

// TestTooMany: the error of a call that finds no place names the bound, with its number and its
// flag. The places of other kinds of calls are free.
func TestTooMany(t *testing.T) {
	for _, c := range []struct {
		method string
		n      int
		says   string
		others []string
	}{
		{"ModelInfer", 80, "80 inferences are in flight, the most that the server allows (--max-calls)", []string{"probes"}},
		{"ServerLive", 20, "20 calls that are not inferences are in flight, the most that the server allows (a quarter of --max-calls, and at least 16)", []string{"inference", "a stream"}},
		{"RepositoryModelLoad", 16, "16 calls that load or unload models are in flight, the most that the server allows (this bound is fixed)", []string{"probes", "inference", "a stream"}},
		{"ModelStreamInfer", 20, "20 streams are open, the most that the server allows (a quarter of --max-calls, and at least 16)", []string{"probes", "inference"}},
		{reflectionPath, 20, "20 streams are open, the most that the server allows", []string{"probes", "inference"}},
		{watchPath, 2, "this connection has 2 watches of the server's health, the most that the server allows; end a watch, or open another connection", []string{"probes", "inference", "a stream"}},
	} {
		t.Run(c.method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := serve(t, server.Config{MaxCalls: 80}, mock.Config{Inputs: []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{-1}}}})
				conn, path := r.conn(), c.method
				if path[0] != '/' {
					path = "/inference.GRPCInferenceService/" + path
				}
				open := func() grpc.ClientStream {
					stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, path)
					if err == nil && path == watchPath {
						err = stream.SendMsg(&grpc_health_v1.HealthCheckRequest{})
					}
					if err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					return stream
				}
				for range c.n {
					open()
				}
				if n := r.figures()[`turned_away_total{door="call"}`]; n != 0 {
					t.Errorf("%v are turned away", n)
				}
				began := time.Now()
				err := open().RecvMsg(&oip.ServerLiveResponse{})
				if d := oip.Parse(err); d.Code != codes.ResourceExhausted || d.Reason != oip.ReasonQueueFull || d.RetryAfter == 0 || !strings.Contains(d.Message, c.says) || time.Since(began) > 0 {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				for _, kind := range c.others {
					for what, ask := range asks[kind] {
						if err := ask(t.Context(), r.conn()); err != nil {
							t.Errorf("%s, %s: %v", kind, what, err)
						}
					}
				}
			})
		})
	}
}

// TestManyLargeRequests: requests that come in side by side, and together need many times the
// memory for them, all arrive. There is no deadlock.
func TestManyLargeRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := mock.New(mock.Config{Function: "echo", Inputs: []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{-1}}}})
		if err != nil {
			t.Fatal(err)
		}
		r := serveModel(t, server.Config{MaxMessageSize: 4 << 20, ReceiveBytes: 1}, m)
		var wg sync.WaitGroup
		for i := range 24 {
			c := r.caller()
			for range 2 {
				wg.Go(func() {
					n := 100<<10 + i*30<<10
					if resp, err := c.ModelInfer(t.Context(), wide(n)); err != nil || len(resp.RawOutputContents[0]) != 4*n {
						t.Errorf("%d numbers: %v", n, err)
					}
				})
			}
		}
		wg.Wait()
		if all := r.figures(); all["receive_bytes"] != 0 || all[`turned_away_total{door="memory"}`] != 0 {
			t.Errorf("%v bytes are taken, %v were turned away", all["receive_bytes"], all[`turned_away_total{door="memory"}`])
		}
	})
}
