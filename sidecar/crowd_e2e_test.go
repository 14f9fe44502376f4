package sidecar_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/tensor"
)

// bulky decodes each answer to a megabyte.
type bulky struct{}

func (bulky) Bind(sig tensor.Signature) (tensor.RowCodec[[]float32, []byte], error) {
	row, err := doubling.Bind(sig)
	return bulkyRow{row}, err
}

type bulkyRow struct {
	tensor.RowCodec[[]float32, []float32]
}

func (r bulkyRow) Decode(v []float32, src *tensor.Rows, i int) ([]byte, error) {
	y, err := r.RowCodec.Decode(v, src, i)
	if err != nil || y[0] != 2*v[0] {
		return nil, errors.Join(err, errors.New("another record's answer"))
	}
	return make([]byte, 1<<20), nil
}

// However many calls were made, the results that wait are bounded: by max_bytes, plus the answers
// of the requests that were in flight when max_bytes was reached (A78).
func TestResultsAreBounded(t *testing.T) {
	for name, order := range map[string]async.Order{"ordered": async.Ordered, "unordered": async.Unordered} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sidecartest.Start(t, sidecartest.Script{Jitter: 5 * time.Millisecond, Seed: 7})
				cfg := config(s)
				cfg.MaxBatch, cfg.Window = 4, 2
				op := async.Config{Order: order, MaxBytes: 16 << 20, Timeout: time.Minute}
				fn := sidecar.NewAsyncFunction(cfg, bulky{})
				results := async.Map(t.Context(), ramp(500), fn, op)
				n := 0
				for _, err := range results {
					if err != nil {
						t.Fatalf("result %d: %v", n, err)
					}
					if n++; n%50 == 1 { // the consumer pauses
						time.Sleep(10 * time.Minute)
						if st := s.Status(); int(st.Answered)*4 < n || rows(s)-n > 16+3*8 {
							t.Fatalf("%d rows were answered, and %d results taken", rows(s), n)
						}
					}
				}
				if n != 500 || rows(s) != 500 {
					t.Errorf("%d results of %d rows", n, rows(s))
				}
			})
		})
	}
}

// rows counts the rows of all requests so far.
func rows(s *sidecartest.Server) (n int) {
	for _, c := range s.Log() {
		n += c.Rows
	}
	return n
}
