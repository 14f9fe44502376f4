package sidecar_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// The model has given an answer, and the client cannot read it. Rows that must not be repeated
// fail, and are in no second request: neither in halves that search for a bad row, nor in a retry.
// Other rows are sent again (A87).
func TestAnsweredRowsAreNotRepeated(t *testing.T) {
	const frame = 5 // the head of a message: whether it is compressed, and its length
	framed := func(flag byte, message []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message))), message...)
	}
	encoded := func(how string, message func() []byte) func(*http.Response, []byte) []byte {
		return func(answer *http.Response, _ []byte) []byte {
			answer.Header.Set("grpc-encoding", how)
			return framed(1, message())
		}
	}
	zipped := func() []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(make([]byte, 1<<20))
		w.Close()
		return b.Bytes()
	}
	garbled := func(_ *http.Response, _ []byte) []byte { return framed(0, []byte{0xff, 0xff, 0xff}) }
	for name, c := range map[string]struct {
		alter  func(answer *http.Response, body []byte) []byte
		faults []mock.Fault
		option grpc.ServerOption
		bytes  int // of a message the client accepts
	}{
		"not to be decoded": {alter: garbled},
		"not to be decoded, with trailers": {alter: func(answer *http.Response, body []byte) []byte {
			answer.Trailer.Set("x-cost", "1")
			return garbled(answer, body)
		}},
		"compressed, without a method": {alter: func(_ *http.Response, body []byte) []byte { return framed(1, body[frame:]) }},
		"compressed in an unknown way": {alter: encoded("brotli", zipped)},
		"compressed badly":             {alter: encoded("gzip", func() []byte { return []byte("not gzip") })},
		"compressed and large":         {alter: encoded("gzip", zipped), bytes: 64 << 10},
		"of no known format":           {alter: func(_ *http.Response, body []byte) []byte { return framed(7, body[frame:]) }},
		"cut":                          {alter: func(_ *http.Response, body []byte) []byte { return body[:len(body)-3] }},
		"no message":                   {alter: func(*http.Response, []byte) []byte { return nil }},
		"two messages":                 {alter: func(_ *http.Response, body []byte) []byte { return append(body, body...) }},
		"too large":                    {alter: func(_ *http.Response, body []byte) []byte { return framed(0, make([]byte, 70<<10)) }, bytes: 64 << 10},
		"too large, with trailers": {alter: func(answer *http.Response, body []byte) []byte {
			answer.Trailer.Set("x-cost", "1")
			return framed(0, make([]byte, 70<<10))
		}, bytes: 64 << 10},
		"a row is missing":       {faults: []mock.Fault{{Kind: mock.Short, First: 3, Last: 3}}},
		"too large for a server": {option: grpc.MaxSendMsgSize(150)},
		"not to be encoded": {option: grpc.ChainUnaryInterceptor(
			func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				resp, err := next(ctx, req)
				if r, ok := resp.(*oip.ModelInferResponse); ok && r != nil {
					r.ModelVersion = "\xff"
				}
				return resp, err
			})},
	} {
		for _, once := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, once %v", name, once), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					script := sidecartest.Script{Faults: c.faults}
					if c.option != nil {
						script.Options = []grpc.ServerOption{c.option}
					}
					s := sidecartest.Start(t, script)
					p := sidecartest.StartProxy(t, s)
					cfg := config(s)
					if c.alter != nil {
						p.Alter("ModelInfer", 2, c.alter)
						cfg = behind(p, s)
					}
					cfg.NonIdempotent, cfg.Window, cfg.MaxBatch, cfg.MaxMessageSize = once, 1, 32, c.bytes
					results, most := 0, 0
					op := async.Config{OnError: async.OnError{Backend: async.Drop, BadRecord: async.Drop}}
					for _, err := range async.Map(t.Context(), ramp(200), sidecar.NewAsyncFunction(cfg, doubling), op) {
						if err != nil {
							t.Fatal(err)
						}
						results++
					}
					sent := map[float64]int{}
					for _, call := range s.Log() {
						for _, v := range call.First {
							sent[v]++
							most = max(most, sent[v])
						}
					}
					if once && (most > 1 || results == 200) || !once && most < 2 {
						t.Errorf("a row was sent %d times; %d results", most, results)
					}
					p.Close()
					s.Close()
				})
			})
		}
	}
}
