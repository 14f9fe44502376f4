package server_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

const idleMost = time.Minute

func idle(t *testing.T, what string, began time.Time, err error) {
	t.Helper()
	d := oip.Parse(err)
	if d.Code != codes.Unavailable || time.Since(began) != idleMost ||
		d.Message != "no request came on this stream for 1m0s (--stream-idle-timeout), so the server ended it; open a new stream for the next request" {
		t.Errorf("%s: after %v: %v", what, time.Since(began), err)
	}
}

// TestIdleStreams: an idle stream ends on time, with an error that says what to do. No other stream
// ends: not one with gaps, as perf_analyzer and NVIDIA's clients have them, not one whose requests
// take long or arrive slowly, and never a watch of the server's health.
func TestIdleStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{StreamIdleTimeout: idleMost, QueueTimeout: time.Hour}, mock.Config{Latency: 3 * idleMost})
		conn := r.conn()
		c := oip.NewGRPCInferenceServiceClient(conn)
		watch, err := grpc_health_v1.NewHealthClient(conn).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		stream, err := c.ModelStreamInfer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		idle(t, "nothing is asked", began, err)

		stream, err = c.ModelStreamInfer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			time.Sleep(idleMost - time.Nanosecond)
			if err := stream.Send(ask(float32(i))); err != nil {
				t.Fatal(err)
			}
			if i == 2 { // a second one, which is answered after the first
				time.Sleep(idleMost / 2)
				if err := stream.Send(ask(7)); err != nil {
					t.Fatal(err)
				}
			}
			resp, err := stream.Recv()
			doubled(t, resp.GetInferResponse(), err, float32(i))
			if i == 2 {
				resp, err = stream.Recv()
				doubled(t, resp.GetInferResponse(), err, 7)
			}
		}
		began = time.Now()
		_, err = stream.Recv()
		idle(t, "after five requests", began, err)
		if err := sent(stream.Send(ask(1))); err != nil {
			t.Error(err)
		}

		began = time.Now()
		about, err := reflection.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = about.Recv()
		idle(t, "reflection", began, err)

		a := r.attack(65535)
		a.open(1, "ModelStreamInfer")
		b := message(0, oneRow(t, 1))
		a.send(1, b[:3], 500) // a part of the message's header
		time.Sleep(idleMost - time.Second)
		a.send(1, b[3:20], 500)
		time.Sleep(2 * time.Second)
		a.send(1, b[20:], 500)
		time.Sleep(3*idleMost + time.Second)
		if a.over(1) {
			t.Error("a stream whose request arrives slowly has ended")
		}
		time.Sleep(idleMost - 2*time.Second)
		if synctest.Wait(); a.over(1) {
			t.Error("it has ended too early")
		}
		time.Sleep(time.Second)
		if synctest.Wait(); !a.over(1) {
			t.Error("it has not ended")
		}

		time.Sleep(24 * time.Hour)
		go r.srv.Shutdown(t.Context())
		if h, err := watch.Recv(); err != nil || h.Status != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("the watch: %v, %v", h, err)
		}
	})
}

// A request that comes as the stream ends is either answered, or not taken, and then the stream has
// ended.
func TestRequestAtTheEndOfAStream(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	taken := 0
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			r := serve(t, server.Config{StreamIdleTimeout: idleMost}, mock.Config{})
			stream, err := r.caller().ModelStreamInfer(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			time.AfterFunc(idleMost+time.Duration(rng.IntN(3)-1), func() { stream.Send(ask(1)) })
			resp, err := stream.Recv()
			synctest.Wait()
			runs := r.shown()[`batch_rows_sum{model="m"}`]
			switch {
			case err == nil && resp.ErrorMessage == "" && runs == 1:
				taken++
			case oip.Parse(err).Code == codes.Unavailable && runs == 0:
			default:
				t.Errorf("%v, %v; %v rows were run", resp, err, runs)
			}
		})
	}
	if taken == 0 || taken == 50 {
		t.Errorf("%d of 50 were taken", taken)
	}
}
