package sidecar_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/tensor"
)

// A model of our own sidecar is reloaded with other tensors. That ends a job that drops bad
// records, and not one good record is dropped (A63).
func TestLoadedAnewWithOtherTensors(t *testing.T) {
	spec := func(name string, dt tensor.DType, row ...int64) []tensor.Spec {
		return []tensor.Spec{{Name: name, DType: dt, Row: row}}
	}
	for name, second := range map[string]mock.Config{
		"other input":  {Inputs: spec("z", tensor.FP32, 1)},
		"another more": {Inputs: append(spec("x", tensor.FP32, 1), spec("z", tensor.FP32, 1)...)},
		"other type":   {Inputs: spec("x", tensor.Int64, 1)},
		"other shape":  {Inputs: spec("x", tensor.FP32, 2)},
		"other output": {Output: "w"},
		"unbatched":    {Unbatched: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var loads atomic.Int64
				srv, err := server.New(server.Config{Explicit: true, WarmUp: []int{}, Models: []server.Model{{Name: "m", Load: func(context.Context) (backend.Model, error) {
					if loads.Add(1) == 1 {
						return mock.New(mock.Config{})
					}
					return mock.New(second)
				}}}})
				if err != nil {
					t.Fatal(err)
				}
				l := bufconn.Listen(1 << 16)
				if err := srv.Start(l); err != nil {
					t.Fatal(err)
				}
				defer srv.Close()
				dial := func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }
				conn, err := grpc.NewClient("passthrough:///m", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				records := func(yield func([]float32, error) bool) {
					for i := range 20 {
						if i == 10 {
							synctest.Wait()
							if _, err := oip.NewGRPCInferenceServiceClient(conn).RepositoryModelLoad(t.Context(), &oip.RepositoryModelLoadRequest{ModelName: "m"}); err != nil {
								t.Error(err)
							}
						}
						if !yield([]float32{float32(i)}, nil) {
							return
						}
					}
				}
				fn := sidecar.NewAsyncFunction(sidecar.Config{Endpoint: "memory", Dialer: dial, Model: "m"}, doubling)
				got := 0
				for y, e := range async.Map(t.Context(), records, fn, async.Config{OnError: async.OnError{BadRecord: async.Drop, Backend: async.Drop}}) {
					if err = e; err != nil {
						break
					}
					if y[0] != float32(2*got) {
						t.Errorf("result %d is %v", got, y)
					}
					got++
				}
				if got > 10 || !errors.Is(err, sidecar.ErrMismatch) || async.VerdictOf(err).Class != async.Permanent || !strings.Contains(fmt.Sprint(err), "another model by this name now") {
					t.Errorf("%d results, and then %v", got, err)
				}
			})
		})
	}
}
