package mock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fp32(rows int, vs ...float32) tensor.Tensor {
	t := tensor.Tensor{Name: "x", DType: tensor.FP32, Shape: tensor.Shape{int64(rows), int64(len(vs) / rows)}}
	for _, v := range vs {
		t.Raw = binary.LittleEndian.AppendUint32(t.Raw, math.Float32bits(v))
	}
	return t
}

func fromLocation(t *testing.T, location string) *Model {
	t.Helper()
	m, err := backend.Registry{Schemes: map[string]backend.Loader{"mock": Loader()}}.Load(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	return m.(*Model)
}

// Every function, over every datatype it takes, by hand.
func TestFunctions(t *testing.T) {
	le := binary.LittleEndian
	for _, c := range []struct{ location, in, want string }{
		{"mock:double?input=x:FP32[2]", string(fp32(1, 1.5, -3).Raw), string(fp32(1, 3, -6).Raw)},
		{"mock:double?input=x:FP64", string(le.AppendUint64(nil, math.Float64bits(0.1))), string(le.AppendUint64(nil, math.Float64bits(0.2)))},
		{"mock:double?input=x:FP16", "\x00\x3c", "\x00\x40"}, // 1 and 2
		{"mock:double?input=x:BF16", "\x80\x3f", "\x00\x40"},
		{"mock:double?input=x:UINT8[2]", "\x03\xff", "\x06\xfe"},
		{"mock:double?input=x:INT8[2]", "\x03\xff", "\x06\xfe"}, // -1 becomes -2
		{"mock:double?input=x:INT16[2]", "\x80\x00\xff\xff", "\x00\x01\xfe\xff"},
		{"mock:double?input=x:UINT32", "\xff\xff\x00\x00", "\xfe\xff\x01\x00"},
		{"mock:double?input=x:INT64", string(le.AppendUint64(nil, 1<<40)), string(le.AppendUint64(nil, 1<<41))},
		{"mock:double?input=x:BYTES[2]", "\x02\x00\x00\x00ab\x00\x00\x00\x00", "\x04\x00\x00\x00abab\x00\x00\x00\x00"},
		{"mock:echo?input=x:BOOL[3]", "\x01\x00\x01", "\x01\x00\x01"},
		{"mock:sum?input=x:FP32[2]", string(fp32(1, 1.5, -3).Raw), string(le.AppendUint64(nil, math.Float64bits(-1.5)))},
		{"mock:sum?input=x:INT16[2]", "\x05\x00\xff\xff", string(le.AppendUint64(nil, 4))},
		{"mock:sum?input=x:BOOL[3]", "\x01\x00\x01", string(le.AppendUint64(nil, 2))},
		{"mock:sum?input=x:BYTES[2]", "\x02\x00\x00\x00ab\x00\x00\x00\x00", string(le.AppendUint64(nil, 2))},
		// FNV-1a of "a"
		{"mock:hash?input=x:UINT8", "a", string(le.AppendUint64(nil, 0xaf63dc4c8601ec8c))},
	} {
		m := fromLocation(t, c.location)
		spec := m.Signature().Inputs[0]
		outs, err := m.Run(t.Context(), []tensor.Tensor{{Name: "x", DType: spec.DType, Shape: append(tensor.Shape{1}, spec.Row...), Raw: []byte(c.in)}})
		if err != nil || string(outs[0].Raw) != c.want {
			t.Errorf("%s: %x, %v; want %x", c.location, outs, err, c.want)
			continue
		}
		if err := outs[0].Validate(); err != nil {
			t.Errorf("%s: %v", c.location, err)
		}
		if want := m.Signature().Outputs[0]; outs[0].DType != want.DType || !want.Row.Accepts(outs[0].Shape[1:]) || outs[0].Name != "y" {
			t.Errorf("%s: answer %s %v%v, signature %v", c.location, outs[0].Name, outs[0].DType, outs[0].Shape, want)
		}
	}
}

// The answer to a row depends on that row alone.
func TestAnswerIsAFunctionOfTheRow(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, function := range []string{"double", "echo", "sum", "hash"} {
		m, err := New(Config{Function: function, Seed: seed, Inputs: []tensor.Spec{
			{Name: "a", DType: tensor.Uint8, Row: tensor.Shape{4}}, {Name: "b", DType: tensor.Int64, Row: tensor.Shape{}}}})
		if err != nil {
			t.Fatal(err)
		}
		raw := make([]byte, 20*12)
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
		run := func(from, to int) []tensor.Tensor {
			n := int64(to - from)
			outs, err := m.Run(t.Context(), []tensor.Tensor{
				{Name: "a", DType: tensor.Uint8, Shape: tensor.Shape{n, 4}, Raw: raw[4*from : 4*to]},
				{Name: "b", DType: tensor.Int64, Shape: tensor.Shape{n}, Raw: raw[80+8*from : 80+8*to]}})
			if err != nil {
				t.Fatal(err)
			}
			return outs
		}
		whole := run(0, 20)
		for range 20 {
			from := rng.IntN(20)
			to := from + 1 + rng.IntN(20-from)
			for k, part := range run(from, to) {
				want, err := whole[k].Slice(int64(from), int64(to))
				if err != nil || !slices.Equal(want.Raw, part.Raw) {
					t.Fatalf("%s: rows %d to %d alone and in the whole differ (%v); seed %d", function, from, to, err, seed)
				}
			}
		}
	}
}

func TestLatencyAndJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := func(m *Model, in tensor.Tensor) time.Duration {
			began := time.Now()
			if _, err := m.Run(t.Context(), []tensor.Tensor{in}); err != nil {
				t.Error(err)
			}
			return time.Since(began)
		}
		exact := fromLocation(t, "mock:double?latency=3ms%2b10us")
		if d := took(exact, fp32(4, 1, 2, 3, 4)); d != 3*time.Millisecond+40*time.Microsecond {
			t.Errorf("4 rows took %v", d)
		}
		var first []time.Duration
		differs := false
		for range 2 {
			var ds []time.Duration
			m := fromLocation(t, "mock:double?latency=1ms&jitter=5ms&seed=7")
			for i := range 10 {
				d := took(m, fp32(1, float32(i)))
				if d < time.Millisecond || d > 6*time.Millisecond {
					t.Errorf("took %v", d)
				}
				ds = append(ds, d)
				differs = differs || d != ds[0]
			}
			if first != nil && !slices.Equal(first, ds) {
				t.Errorf("the same seed gave %v and %v", first, ds)
			}
			first = ds
		}
		if !differs {
			t.Error("the jitter is always the same")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := fromLocation(t, "mock:double?latency=1h").Run(ctx, []tensor.Tensor{fp32(1, 1)}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a run whose context ended: %v", err)
		}
	})
}

func TestFaults(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // for the one that hangs
	crashed := 0
	m, err := New(Config{OnCrash: func() { crashed++ }, Faults: []Fault{
		parse(t, "RESOURCE_EXHAUSTED/MEMORY_PRESSURE@1,retry=5ms"), parse(t, "hang@2"), parse(t, "panic@3"), parse(t, "crash@4"),
		parse(t, "short@5"), parse(t, "bad@row=13"), parse(t, "INTERNAL@row=14,times=1"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	run := func(vs ...float32) (outs []tensor.Tensor, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		return m.Run(ctx, []tensor.Tensor{fp32(len(vs), vs...)})
	}
	_, err = run(1)
	if e, ok := errors.AsType[*backend.Error](err); !ok || e.Code != codes.ResourceExhausted || e.Reason != "MEMORY_PRESSURE" || e.RetryAfter != 5*time.Millisecond {
		t.Errorf("run 1: %v", err)
	}
	if _, err = run(1); !errors.Is(err, context.Canceled) {
		t.Errorf("run 2: %v", err)
	}
	if _, err = run(1); err == nil || !strings.Contains(err.Error(), "panic: mock: scripted") {
		t.Errorf("run 3: %v", err)
	}
	if _, err = run(1); err == nil || crashed != 1 {
		t.Errorf("run 4: %v, %d crashes", err, crashed)
	}
	if outs, err := run(1, 2); err != nil || outs[0].Shape[0] != 1 {
		t.Errorf("run 5: %v, %v", outs, err)
	}
	_, err = run(1, 13, 2, 13)
	if e, ok := errors.AsType[*backend.RowsError](err); !ok || !slices.Equal(e.Rows, []int{1, 3}) || e.Input != "x" {
		t.Errorf("bad rows: %v", err)
	}
	for i := range 2 {
		if _, err = run(14); (err != nil) != (i == 0) {
			t.Errorf("a fault that happens once, time %d: %v", i, err)
		}
	}
	if runs, rows := m.Runs(); runs != 8 || rows != 12 {
		t.Errorf("%d runs, %d rows", runs, rows)
	}
}

func parse(t *testing.T, s string) Fault {
	t.Helper()
	f, err := ParseFault(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestParseFault(t *testing.T) {
	for _, s := range []string{"UNAVAILABLE@1", "CANCELLED@all", "RESOURCE_EXHAUSTED/QUEUE_FULL@3-5,retry=10ms", "hang@row=13.5", "panic@3-,times=2",
		"drop@every=4", "crash@7", "short@row=-1", "bad@row=0", "DATA_LOSS/BAD_OUTPUT@2"} {
		if got := parse(t, s).String(); got != s {
			t.Errorf("ParseFault(%q).String() = %q", s, got)
		}
	}
	for s, want := range map[string]string{
		"": "no @", "hang": "no @", "OK@1": "neither a status code", "NOPE@1": "neither a status code", "17@1": "neither a status code", "hang@0": "number of a call",
		"hang@x": "number of a call", "hang@5-3": "range 5-3 is empty", "hang@row=x": "invalid syntax", "hang@every=0": "number of a call",
		"bad@1": "needs row=VALUE", "hang@1,times=0": "at least 1", "hang@1,retry=soon": "invalid duration", "hang@1,x=y": `unknown "x=y"`,
		"hang@1,retry=-1s": "negative",
	} {
		if _, err := ParseFault(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseFault(%q): %v, want %s", s, err, want)
		}
	}
}

func TestScheduleCountsAcrossGoroutines(t *testing.T) {
	s, err := NewSchedule([]Fault{{Kind: Hang, Times: 10}, {Kind: Panic, Every: 3, First: 1, Last: math.MaxInt64}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := map[Kind]int{}
	for i := range 40 {
		wg.Go(func() {
			f, _, ok := s.Match(int64(3*i+3), nil)
			mu.Lock()
			defer mu.Unlock()
			if ok {
				count[f.Kind]++
			}
		})
	}
	wg.Wait()
	if count[Hang] != 10 || count[Panic] != 30 {
		t.Errorf("%v", count)
	}
	if _, _, ok := s.Match(4, nil); ok {
		t.Error("every third call came on the fourth")
	}
}

func TestLoadErrors(t *testing.T) {
	r := backend.Registry{Schemes: map[string]backend.Loader{"mock": Loader()}}
	for location, want := range map[string]string{
		"mock:triple":                           `unknown function "triple"; want double, echo, sum or hash`,
		"mock:double?input=x":                   "no name",
		"mock:double?input=x:FP31":              "unknown datatype",
		"mock:double?input=x:FP32[2":            "no closing bracket",
		"mock:double?input=x:FP32[-2]":          `"-2" is not a dimension`,
		"mock:double?input=x:BOOL":              "no meaning for the BOOL input",
		"mock:double?input=x:FP32&input=x:FP32": "two inputs are named",
		"mock:double?latency=soon":              "option latency=soon",
		"mock:double?instances=-1":              "negative",
		"mock:double?fault=x":                   "no @",
		"mock:double?fault=drop@1":              "no connection to drop",
		"mock:double?colour=red":                `unknown option "colour"; known are input`,
		"mock:double?load_error=gone":           "gone",
	} {
		if _, err := r.Load(t.Context(), location); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", location, err, want)
		}
	}
	m := fromLocation(t, "mock:sum?input=a:FP32[2,-1]&input=b:BYTES&output=s&batched=false&max_batch=3&instances=2")
	sig := m.Signature()
	if sig.String() != "sum (one row a request): inputs a FP32[2,-1], b BYTES[]; outputs s FP64[]" || m.Instances() != 2 {
		t.Errorf("signature %s", sig.String())
	}
	if _, err := m.Run(t.Context(), []tensor.Tensor{{Name: "a", DType: tensor.FP32, Shape: tensor.Shape{1}}}); err == nil {
		t.Error("a run with one of two inputs")
	}
}

func FuzzParseFault(f *testing.F) {
	f.Add("RESOURCE_EXHAUSTED/QUEUE_FULL@3-5,retry=10ms,times=3")
	f.Add("bad@row=13")
	f.Fuzz(func(t *testing.T, s string) {
		fault, err := ParseFault(s)
		if err != nil {
			return
		}
		again, err := ParseFault(fault.String())
		if err != nil || again.String() != fault.String() {
			t.Fatalf("ParseFault(%q) is written %q, which is read as %q, %v", s, fault, again, err)
		}
	})
}
