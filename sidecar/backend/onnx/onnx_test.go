package onnx

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const digitsFile = "testdata/digits.onnx"

type digit struct {
	Label  int64     `json:"label"`
	Pixels []float32 `json:"pixels"`
	Probs  []float64 `json:"probs"`
}

func digits(t testing.TB) []digit {
	t.Helper()
	f, err := os.Open("testdata/digits.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []digit
	for s := bufio.NewScanner(f); s.Scan(); {
		var d digit
		if err := json.Unmarshal(s.Bytes(), &d); err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
	if len(out) != 100 {
		t.Fatalf("%d records", len(out))
	}
	return out
}

func load(t testing.TB, opts Options) *Model {
	t.Helper()
	m, err := Load(t.Context(), digitsFile, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func pixels(ds []digit) []tensor.Tensor {
	var raw []byte
	for _, d := range ds {
		for _, p := range d.Pixels {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(p))
		}
	}
	return []tensor.Tensor{{Name: "pixels", DType: tensor.FP32, Shape: tensor.Shape{int64(len(ds)), 64}, Raw: raw}}
}

// answers runs the digits as one batch and checks each against its reference.
func answers(t testing.TB, m *Model, ds []digit) []tensor.Tensor {
	t.Helper()
	outs, err := m.Run(t.Context(), pixels(ds))
	if err != nil {
		t.Fatal(err)
	}
	sig := m.Signature()
	rows := tensor.NewRows(&sig)
	for i, o := range outs {
		if err := rows.Set(i, o.DType, o.Shape, o.Raw, len(ds)); err != nil {
			t.Fatal(err)
		}
	}
	probs, _ := sig.Output("probs")
	label, _ := sig.Output("label")
	for r, d := range ds {
		best := 0
		for j, want := range d.Probs {
			if got := rows.Output(probs).Number(r, j); math.Abs(got-want) > 1e-4 {
				t.Errorf("row %d: probability of %d is %v, want %v", r, j, got, want)
			}
			if want > d.Probs[best] {
				best = j
			}
		}
		if got := rows.Output(label).Int(r, 0); got != int64(best) {
			t.Errorf("row %d: label %d, want %d", r, got, best)
		}
	}
	return outs
}

func TestDigits(t *testing.T) {
	m := load(t, Options{})
	sig := m.Signature()
	if got := sig.String(); !strings.Contains(got, "inputs pixels FP32[64]; outputs ") || !strings.Contains(got, "label INT64[]") ||
		!strings.Contains(got, "probs FP32[10]") || !sig.Batched {
		t.Errorf("signature %s", got)
	}
	ds := digits(t)
	for _, n := range []int{1, 2, 3, 7, 8, 33, 100} {
		answers(t, m, ds[:n])
	}
	right := 0
	label, _ := sig.Output("label")
	for i, raw := 0, answers(t, m, ds)[label].Raw; i < len(ds); i++ {
		if int64(binary.LittleEndian.Uint64(raw[8*i:])) == ds[i].Label {
			right++
		}
	}
	if right < 95 {
		t.Errorf("%d of 100 digits are right", right)
	}
}

// With fixed_batch the answer to a row has the same bits in any batch.
func TestFixedBatchIsStable(t *testing.T) {
	m := load(t, Options{FixedBatch: 32})
	ds := digits(t)
	if sig := m.Signature(); sig.MaxBatch != 32 {
		t.Errorf("MaxBatch %d", sig.MaxBatch)
	}
	whole := answers(t, m, ds[:32])
	for i := range 32 {
		alone := answers(t, m, ds[i:i+1])
		for k := range alone {
			size := len(alone[k].Raw)
			if !slices.Equal(alone[k].Raw, whole[k].Raw[i*size:(i+1)*size]) {
				t.Errorf("row %d, output %s: the row alone gives other bits than in a batch of 32", i, alone[k].Name)
			}
		}
	}
	if _, err := m.Run(t.Context(), pixels(ds[:33])); err == nil || !strings.Contains(err.Error(), "fixed_batch is 32") {
		t.Errorf("33 rows: %v", err)
	}
}

func TestConcurrentRuns(t *testing.T) {
	m := load(t, Options{Instances: 4})
	ds := digits(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 10 {
				answers(t, m, ds[w*10:w*10+i+1])
			}
		})
	}
	wg.Wait()
}

func TestGraphsAreBounded(t *testing.T) {
	m := load(t, Options{})
	ds := digits(t)
	for i := range maxGraphs + 8 {
		in := []tensor.Tensor{{Shape: tensor.Shape{1, int64(i)}}}
		g, err := m.graphs.take(in, true, 1)
		if err != nil {
			t.Fatal(err)
		}
		m.graphs.give(g)
	}
	if n := len(m.graphs.kept); n > maxGraphs {
		t.Errorf("%d graphs are kept", n)
	}
	answers(t, m, ds[:5])
}

func TestBadInputsAreErrors(t *testing.T) {
	m := load(t, Options{})
	ds := digits(t)
	good := pixels(ds[:2])
	for name, in := range map[string][]tensor.Tensor{
		"no input":     nil,
		"wrong row":    {{Name: "pixels", DType: tensor.FP32, Shape: tensor.Shape{2, 3}, Raw: make([]byte, 24)}},
		"wrong type":   {{Name: "pixels", DType: tensor.Int64, Shape: tensor.Shape{2, 64}, Raw: make([]byte, 1024)}},
		"too many":     append(slices.Clone(good), good...),
		"no rows":      {{Name: "pixels", DType: tensor.FP32, Shape: tensor.Shape{0, 64}}},
		"scalar":       {{Name: "pixels", DType: tensor.FP32, Raw: make([]byte, 4)}},
		"out of range": {{Name: "pixels", DType: tensor.FP32, Shape: tensor.Shape{1 << 40, 64}}},
		"bytes":        {{Name: "pixels", DType: tensor.Bytes, Shape: tensor.Shape{1, 64}}},
	} {
		if _, err := m.Run(t.Context(), in); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	answers(t, m, ds[:2])
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.onnx")
	if err := os.WriteFile(garbage, []byte("this is no model"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty.onnx")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(digitsFile)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut.onnx")
	if err := os.WriteFile(cut, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	registry := backend.Registry{Extensions: map[string]backend.Loader{".onnx": Loader()}}
	for location, want := range map[string]string{
		filepath.Join(dir, "none.onnx"):  "no such file",
		garbage:                          garbage,
		empty:                            empty,
		cut:                              cut,
		digitsFile + "?fixed=3":          `unknown option "fixed"; known are fixed_batch`,
		digitsFile + "?fixed_batch=many": "want a number, at least 1",
		"digits.pt":                      `no backend for a file with the extension ".pt" (digits.pt); this program has *.onnx`,
	} {
		m, err := registry.Load(t.Context(), location)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one that says %q", location, err, want)
		}
		if err == nil {
			m.Close()
		}
	}
	m, err := registry.Load(t.Context(), digitsFile+"?fixed_batch=8&instances=2")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if sig := m.Signature(); sig.MaxBatch != 8 || m.Instances() != 2 {
		t.Errorf("max batch %d, instances %d", sig.MaxBatch, m.Instances())
	}
}

func BenchmarkRun(b *testing.B) {
	m := load(b, Options{})
	ds := digits(b)
	for _, n := range []int{1, 8, 32, 64} {
		in := pixels(ds[:n])
		b.Run(fmt.Sprintf("rows=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Run(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/row")
		})
	}
}
