package ferry

import (
	"bufio"
	"context"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/tensor"
)

// BenchmarkFerry sends rows over a Unix socket, with 1000 in flight, against the same rows through
// async.Map in this process, in turns. The model answers at once.
func BenchmarkFerry(b *testing.B) {
	const rows, pairs, inFlight = 200_000, 5, 1000
	in := []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{64}}}
	sc, err := sidecartest.New(sidecartest.Script{Function: "echo", Inputs: in}, "unix://"+filepath.Join(b.TempDir(), "s.sock"))
	if err != nil {
		b.Fatal(err)
	}
	defer sc.Close()
	s, err := New(Config{Allow: []Target{{Model: sc.Model(), Config: sidecar.Config{Endpoint: sc.Endpoint()}}}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "f.sock"))
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve(l)
	row := make([]byte, 256)
	ferried := func() time.Duration {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		br := bufio.NewReaderSize(conn, 64<<10)
		hello := `{"version":1,"parallelism":1,"form":"rows","infer":{"model":"model","capacity":1000}}`
		conn.Write(append([]byte(Magic), appendFrame(nil, 0, kindHello, func(d []byte) []byte { return append(d, hello...) })...))
		if h, err := readHead(br); err != nil || h.kind != kindWelcome {
			b.Fatal(h, err)
		} else if _, err := br.Discard(h.size); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		var out []byte
		sent := uint64(0)
		for answers := 0; answers < rows; {
			for out = out[:0]; sent < rows && int(sent)-answers < inFlight; sent++ {
				out = appendCall(out, sent, "", row)
			}
			if len(out) > 0 {
				if _, err := conn.Write(out); err != nil {
					b.Fatal(err)
				}
			}
			for first := true; first || br.Buffered() > frameSize; first = false {
				h, err := readHead(br)
				if err == nil {
					_, err = br.Discard(h.size)
				}
				if err != nil {
					b.Fatal(err)
				}
				if h.kind == kindResult {
					answers++
				}
			}
		}
		return time.Since(start)
	}
	direct := func() time.Duration {
		fn := sidecar.NewAsyncFunction(sidecar.Config{Endpoint: sc.Endpoint(), Model: sc.Model()}, tensor.Codec[payload, payload](&rowCodec{}))
		input := func(yield func(payload, error) bool) {
			for range rows {
				if !yield(row, nil) {
					return
				}
			}
		}
		start := time.Now()
		for _, err := range async.Map(context.Background(), input, fn, async.Config{Capacity: inFlight, Order: async.Unordered}) {
			if err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(start)
	}
	var ratios []float64
	var took time.Duration
	for range b.N {
		for range pairs {
			d := direct()
			f := ferried()
			took += f
			ratios = append(ratios, float64(f)/float64(d))
		}
	}
	slices.Sort(ratios)
	b.ReportMetric(float64(took.Nanoseconds())/float64(rows*pairs*b.N), "ns/record")
	b.ReportMetric(ratios[len(ratios)/2], "x-direct")
	b.ReportMetric(0, "ns/op")
}
