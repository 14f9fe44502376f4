//go:build integration

package ort_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/onnx"
	"github.com/tensorferry/tensorferry/sidecar/backend/ort"
	"github.com/tensorferry/tensorferry/tensor"
)

const digitsFile = "../../examples/digits/digits.onnx"

func digits(t testing.TB) (rows [][]byte) {
	t.Helper()
	f, err := os.Open("../../examples/digits/digits.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var d struct{ Pixels []float32 }
		if err := json.Unmarshal(s.Bytes(), &d); err != nil {
			t.Fatal(err)
		}
		var raw []byte
		for _, p := range d.Pixels {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(p))
		}
		rows = append(rows, raw)
	}
	if len(rows) != 450 {
		t.Fatalf("%d records", len(rows))
	}
	return rows
}

func pixels(rows [][]byte) []tensor.Tensor {
	return []tensor.Tensor{{Name: "pixels", DType: tensor.FP32, Shape: tensor.Shape{int64(len(rows)), 64}, Raw: bytes.Join(rows, nil)}}
}

// same compares two answers: labels exactly, probabilities to 1e-5.
func same(t testing.TB, got, want []tensor.Tensor) (worst float64) {
	t.Helper()
	for i := range want {
		if got[i].Name != want[i].Name || got[i].DType != want[i].DType || !slices.Equal(got[i].Shape, want[i].Shape) {
			t.Fatalf("output %+v; pure Go has %+v", got[i], want[i])
		}
		if want[i].DType != tensor.FP32 {
			if !bytes.Equal(got[i].Raw, want[i].Raw) {
				t.Fatalf("output %s differs", want[i].Name)
			}
			continue
		}
		for j := 0; j < len(want[i].Raw); j += 4 {
			g := math.Float32frombits(binary.LittleEndian.Uint32(got[i].Raw[j:]))
			w := math.Float32frombits(binary.LittleEndian.Uint32(want[i].Raw[j:]))
			worst = max(worst, math.Abs(float64(g)-float64(w)))
		}
	}
	if !(worst <= 1e-5) {
		t.Fatalf("outputs differ by %g", worst)
	}
	return worst
}

func TestSameAnswersAsPureGo(t *testing.T) {
	rows := digits(t)
	for _, c := range []struct {
		name, file string
		opts       ort.Options
		sizes      []int
	}{
		{"plain", digitsFile, ort.Options{}, []int{1, 2, 3, 5, 7, 8, 16, 31, 33, 63, 64}},
		{"padded", digitsFile, ort.Options{FixedBatch: 64}, []int{1, 3, 8, 33, 64}},
		{"threads", digitsFile, ort.Options{Threads: 2}, []int{1, 64}},
		{"convolutions", "testdata/digits_cnn.onnx", ort.Options{}, []int{1, 7, 64}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pure, err := onnx.Load(t.Context(), c.file, onnx.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer pure.Close()
			m := load(t, c.file, c.opts)
			worst := 0.0
			for _, size := range c.sizes {
				for some := range slices.Chunk(rows, size) {
					got, err := m.Run(t.Context(), pixels(some))
					if err != nil {
						t.Fatal(err)
					}
					want, err := pure.Run(t.Context(), pixels(some))
					if err != nil {
						t.Fatal(err)
					}
					worst = max(worst, same(t, got, want))
				}
			}
			t.Logf("450 records in batches of %d; the largest difference is %g", c.sizes, worst)
		})
	}
}

// payload is n elements of a datatype, of which none is the same as its neighbour.
func payload(dt tensor.DType, n int) (raw []byte) {
	for i := range n {
		switch size := dt.Size(); {
		case dt == tensor.Bytes:
			text := strings.Repeat("é", i%4) + strconv.Itoa(i%3)
			if i%5 == 0 {
				text = ""
			}
			raw = append(binary.LittleEndian.AppendUint32(raw, uint32(len(text))), text...)
		case dt == tensor.Bool:
			raw = append(raw, byte(i&1))
		default:
			for j := range size {
				raw = append(raw, byte(i*31+j*7))
			}
		}
	}
	return raw
}

func TestDatatypes(t *testing.T) {
	shapes := map[string]tensor.Shape{"fixed": {2, 3}, "batched": {-1, 3}, "dynamic": {-1, -1}}
	for dt := range elements {
		for kind, whole := range shapes {
			for _, fixed := range []int{0, 8} {
				if fixed > 0 && kind == "fixed" {
					continue
				}
				t.Run(fmt.Sprintf("%v/%s/%d", dt, kind, fixed), func(t *testing.T) {
					path := write(t, []tensor.Spec{{Name: "a", DType: dt, Row: whole}, {Name: "b", DType: dt, Row: whole}},
						[]tensor.Spec{{Name: "y", DType: dt, Row: whole}, {Name: "x", DType: dt, Row: whole}},
						node{"Identity", []string{"a"}, "x", 0}, node{"Identity", []string{"b"}, "y", 0})
					m, err := library.Load(t.Context(), path, ort.Options{FixedBatch: fixed})
					if kind == "dynamic" && (dt == tensor.FP16 || dt == tensor.BF16) {
						if err == nil || !strings.Contains(err.Error(), "of any size") {
							t.Fatalf("loaded: %v", err)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					defer m.Close()
					for _, rows := range []int64{1, 2, 5} {
						shape := tensor.Shape{rows, 3}
						if kind == "fixed" {
							shape[0] = 2
						}
						n, _ := shape.Elements()
						a, b := payload(dt, int(n)), payload(dt, int(n)+1)
						if dt == tensor.Bytes {
							b = append(binary.LittleEndian.AppendUint32(nil, 1), 'z')
							b = append(b, payload(dt, int(n)-1)...)
						} else {
							b = b[dt.Size():]
						}
						got, err := m.Run(t.Context(), []tensor.Tensor{{Name: "a", DType: dt, Shape: shape, Raw: a}, {Name: "b", DType: dt, Shape: shape, Raw: b}})
						if err != nil {
							t.Fatal(err)
						}
						for i, want := range [][]byte{b, a} {
							if !slices.Equal(got[i].Shape, shape) || got[i].DType != dt || !bytes.Equal(got[i].Raw, want) {
								t.Errorf("output %d: %+v; want shape %v and %x", i, got[i], shape, want)
							}
						}
					}
				})
			}
		}
	}
}

// A string with a zero byte would come back without its end.
func TestZeroByteIsRefused(t *testing.T) {
	spec := []tensor.Spec{{Name: "x", DType: tensor.Bytes, Row: tensor.Shape{-1, 1}}}
	out := []tensor.Spec{{Name: "y", DType: tensor.Bytes, Row: tensor.Shape{-1, 1}}}
	m := load(t, write(t, spec, out, node{"Identity", []string{"x"}, "y", 0}), ort.Options{})
	raw := []byte("\x01\x00\x00\x00a\x03\x00\x00\x00b\x00c\x00\x00\x00\x00")
	_, err := m.Run(t.Context(), []tensor.Tensor{{Name: "x", DType: tensor.Bytes, Shape: tensor.Shape{3, 1}, Raw: raw}})
	var bad *backend.RowsError
	if !errors.As(err, &bad) || !slices.Equal(bad.Rows, []int{1}) || bad.Input != "x" {
		t.Errorf("%v", err)
	}
	if _, err := m.Run(t.Context(), []tensor.Tensor{{Name: "x", DType: tensor.Bytes, Shape: tensor.Shape{3, 1}, Raw: raw[:7]}}); err == nil {
		t.Error("strings cut short were taken")
	}
}

// A model that reads numbers from strings is loaded without being asked what an empty one is, which
// it could not say. It is not warmed up with these either.
func TestStringsThatAreNumbers(t *testing.T) {
	m := load(t, write(t, []tensor.Spec{{Name: "x", DType: tensor.Bytes, Row: tensor.Shape{-1, 1}}},
		[]tensor.Spec{{Name: "y", DType: tensor.FP32, Row: tensor.Shape{-1, 1}}}, node{"Cast", []string{"x"}, "y", elements[tensor.FP32]}), ort.Options{})
	if u, ok := m.(backend.Unwarmed); !ok || !u.NoWarmUp() {
		t.Error("it is to be warmed up")
	}
	ask := func(raw string) ([]tensor.Tensor, error) {
		return m.Run(t.Context(), []tensor.Tensor{{Name: "x", DType: tensor.Bytes, Shape: tensor.Shape{2, 1}, Raw: []byte(raw)}})
	}
	out, err := ask("\x03\x00\x00\x001.5\x02\x00\x00\x00-2")
	if err != nil || !bytes.Equal(out[0].Raw, []byte("\x00\x00\xc0\x3f\x00\x00\x00\xc0")) {
		t.Errorf("%v, %v", out, err)
	}
	if _, err := ask("\x03\x00\x00\x001.5\x00\x00\x00\x00"); err == nil {
		t.Error("an empty string is a number by now, and the model may be asked for it")
	}
}

func TestBadModels(t *testing.T) {
	whole, err := os.ReadFile(digitsFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i, b := range [][]byte{nil, []byte("no model"), whole[:100], whole[:len(whole)/2], whole[:len(whole)-1]} {
		path := filepath.Join(dir, fmt.Sprint(i)+".onnx")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if m, err := library.Load(t.Context(), path, ort.Options{}); err == nil {
			t.Errorf("%d bytes were loaded: %v", len(b), m.Signature())
			m.Close()
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("the error does not name the file: %v", err)
		}
	}
	for what, opts := range map[string]ort.Options{"CUDA": {Device: "cuda:7"}, "device=": {Device: "tpu"}} {
		if _, err := library.Load(t.Context(), digitsFile, opts); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
	if _, err := ort.Open(filepath.Join(dir, "other.so")); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second library: %v", err)
	}
}

// A batch whose caller has gone stops between two operators: the whole chain would end without an
// error.
func TestRunStopsWithItsContext(t *testing.T) {
	shape := tensor.Shape{1, 512, 512}
	nodes := []node{}
	last := "x"
	for i := range 400 {
		next := "v" + strconv.Itoa(i)
		nodes = append(nodes, node{"MatMul", []string{last, "x"}, next, 0})
		last = next
	}
	m, err := library.Load(t.Context(), write(t, []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: shape}},
		[]tensor.Spec{{Name: last, DType: tensor.FP32, Row: shape}}, nodes...), ort.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	in := []tensor.Tensor{{Name: "x", DType: tensor.FP32, Shape: shape, Raw: make([]byte, 4*512*512)}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := m.Run(ctx, in); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the run ended with %v", err)
	}
}

func TestInstances(t *testing.T) {
	rows := digits(t)
	m := load(t, digitsFile, ort.Options{Instances: 2})
	if m.Instances() != 2 {
		t.Fatalf("%d instances", m.Instances())
	}
	want, err := m.Run(t.Context(), pixels(rows))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 50 {
				got, err := m.Run(t.Context(), pixels(rows))
				if err != nil {
					t.Error(err)
					return
				}
				for i := range want {
					if !bytes.Equal(got[i].Raw, want[i].Raw) {
						t.Errorf("output %d differs", i)
					}
				}
			}
		})
	}
	wg.Wait()
}

const leakChild = "TENSORFERRY_TEST_LEAK"

// TestNothingLeaks runs 20,000 batches in a process of its own. The memory after the first 2,000 is
// what it needs; a batch's answer left behind each time would add 40 MiB or more.
func TestNothingLeaks(t *testing.T) {
	if os.Getenv(leakChild) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNothingLeaks$", "-test.v")
		cmd.Env = append(os.Environ(), leakChild+"=1", ort.LibraryVariable+"="+library.Path)
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	rows := digits(t)[:32]
	m := load(t, digitsFile, ort.Options{})
	path := write(t, []tensor.Spec{{Name: "x", DType: tensor.Bytes, Row: tensor.Shape{-1, 3}}},
		[]tensor.Spec{{Name: "y", DType: tensor.Bytes, Row: tensor.Shape{-1, 3}}}, node{"Identity", []string{"x"}, "y", 0})
	texts := load(t, path, ort.Options{})
	words := []tensor.Tensor{{Name: "x", DType: tensor.Bytes, Shape: tensor.Shape{20, 3}, Raw: payload(tensor.Bytes, 60)}}
	var before int
	for i := range 20_000 {
		if i == 2_000 {
			before = resident(t)
		}
		if _, err := m.Run(t.Context(), pixels(rows)); err != nil {
			t.Fatal(err)
		}
		if _, err := texts.Run(t.Context(), words); err != nil {
			t.Fatal(err)
		}
	}
	after := resident(t)
	t.Logf("resident after 2,000 batches %d KiB, after 20,000 %d KiB", before, after)
	if after > before+16<<10 {
		t.Errorf("memory grew by %d KiB", after-before)
	}
}

func resident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// BenchmarkRun compares the backends: go test -tags integration -run - -bench Run ./integration/ort
func BenchmarkRun(b *testing.B) {
	rows := digits(b)
	pure, err := onnx.Load(b.Context(), digitsFile, onnx.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer pure.Close()
	for _, size := range []int{1, 8, 32} {
		took := map[string]float64{}
		for _, c := range []struct {
			name string
			m    backend.Model
		}{{"onnx", pure}, {"ort", load(b, digitsFile, ort.Options{})}} {
			b.Run(fmt.Sprintf("%s/%d", c.name, size), func(b *testing.B) {
				in := pixels(rows[:size])
				b.ReportAllocs()
				for b.Loop() {
					if _, err := c.m.Run(b.Context(), in); err != nil {
						b.Fatal(err)
					}
				}
				took[c.name] = float64(b.Elapsed()) / float64(b.N)
				if took["ort"] > 0 {
					b.ReportMetric(took["ort"]/took["onnx"], "ort/onnx")
				}
			})
		}
	}
}
