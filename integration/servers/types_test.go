//go:build integration

package servers

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/tensor"
)

// row is a record of these tests: for each input its raw elements. The results have each under
// the name of the output.
type row map[string][]byte

// rawCodec sends the inputs that it names and takes every output.
type rawCodec []string

func (c rawCodec) Bind(sig tensor.Signature) (tensor.RowCodec[row, row], error) {
	b := boundCodec{sig: sig}
	for _, name := range c {
		i, ok := sig.Input(name)
		if !ok {
			return nil, fmt.Errorf("the codec has input %q; the model's are %s", name, tensor.List(sig.Inputs))
		}
		b.inputs = append(b.inputs, i)
	}
	if len(c) != len(sig.Inputs) {
		return nil, fmt.Errorf("the codec has inputs %q; the model's are %s", []string(c), tensor.List(sig.Inputs))
	}
	return b, nil
}

type boundCodec struct {
	sig    tensor.Signature
	inputs []int
}

func (b boundCodec) Encode(dst *tensor.Batch, in row) error {
	for _, i := range b.inputs {
		if err := dst.Column(i).AppendRaw(in[b.sig.Inputs[i].Name]); err != nil {
			return err
		}
	}
	return nil
}

func (b boundCodec) Decode(_ row, src *tensor.Rows, i int) (row, error) {
	out := row{}
	for k, spec := range b.sig.Outputs {
		out[spec.Name] = bytes.Clone(src.Output(k).RowRaw(i))
	}
	return out, nil
}

func le[T any](vs ...T) []byte {
	var b bytes.Buffer
	for _, v := range vs {
		binary.Write(&b, binary.LittleEndian, v)
	}
	return b.Bytes()
}

func elements(vs ...string) []byte {
	var raw []byte
	for _, v := range vs {
		raw = binary.LittleEndian.AppendUint32(raw, uint32(len(v)))
		raw = append(raw, v...)
	}
	return raw
}

// special are pairs of elements at the edges of each datatype.
var special = map[string][][]byte{
	"BOOL":   {{0, 1}, {1, 1}, {0, 0}},
	"INT8":   {le[int8](math.MinInt8, math.MaxInt8), le[int8](-1, 0)},
	"INT16":  {le[int16](math.MinInt16, math.MaxInt16), le[int16](-1, 0)},
	"INT32":  {le[int32](math.MinInt32, math.MaxInt32), le[int32](-1, 0)},
	"INT64":  {le[int64](math.MinInt64, math.MaxInt64), le[int64](-1, 1<<53+1)},
	"UINT8":  {le[uint8](0, math.MaxUint8), le[uint8](127, 128)},
	"UINT16": {le[uint16](0, math.MaxUint16), le[uint16](32767, 32768)},
	"UINT32": {le[uint32](0, math.MaxUint32), le[uint32](1<<31-1, 1<<31)},
	"UINT64": {le[uint64](0, math.MaxUint64), le[uint64](1<<63, 1<<53+1)},
	// -0 and the smallest, the largest and an infinity.
	"FP16": {le[uint16](0x8000, 0x0001), le[uint16](0x7bff, 0xfc00), le[uint16](0x3555, 0xbc00)},
	"FP32": {le[uint32](0x80000000, 0x00000001), le[uint32](0x7f7fffff, 0xff800000), le[float32](0.1, -1.5)},
	"FP64": {le[uint64](1<<63, 1), le[uint64](0x7fefffffffffffff, 0xfff0000000000000), le(0.1, -1.5)},
	// NUL bytes at the end of an element are lost where numpy's own strings are used.
	"BYTES": {elements("", "a\x00b"), elements("\xff\xfe", "grüße"), elements(strings.Repeat("x", 3000), " ")},
}

// notNumbers are NaNs: quiet, with a payload, negative.
var notNumbers = map[string][]byte{
	"FP16": le[uint16](0x7e00, 0xfe00), // MLServer keeps no payload of these
	"FP32": le[uint32](0x7fc00000, 0xffc00001),
	"FP64": le[uint64](0x7ff8000000000000, 0xfff8000000000001),
}

func types(names ...string) []string {
	if len(names) > 0 {
		return names
	}
	for name := range special {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// echoed sends rows and checks that each comes back bit by bit, in order.
func echoed(t *testing.T, s *server, model string, names []string, rows []row) {
	t.Helper()
	cfg := sidecar.Config{Endpoint: s.endpoint(), Model: model, MaxMessageSize: 128 << 20}
	if s.sharing {
		var log *logged
		cfg, log = sharing(s, model)
		defer checkShared(t, s, log)
	}
	fn := sidecar.NewAsyncFunction(cfg, rawCodec(names))
	in := func(yield func(row, error) bool) {
		for _, r := range rows {
			if !yield(r, nil) {
				return
			}
		}
	}
	n := 0
	for out, err := range async.Map(t.Context(), in, fn, async.Config{Timeout: async.Off, MaxBytes: async.Off}) {
		if err != nil {
			t.Fatalf("row %d: %v", n, err)
		}
		for _, name := range names {
			if got := out["out_"+name]; !bytes.Equal(got, rows[n][name]) {
				t.Errorf("row %d, %s: % .40x came back as % .40x", n, name, rows[n][name], got)
			}
		}
		n++
	}
	if n != len(rows) {
		t.Errorf("%d of %d rows came back", n, len(rows))
	}
}

// Every datatype goes there and back bit by bit, one input of each in a request.
func datatypes(t *testing.T, s *server) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	models := map[string][]string{"types": types()}
	if slices.Contains(s.models, "typed") {
		// Answers with typed contents, which FP16 has not.
		models["typed"] = slices.DeleteFunc(types(), func(n string) bool { return n == "FP16" })
	}
	for model, names := range models {
		var rows []row
		for i := range 200 {
			r := row{}
			for _, name := range names {
				switch dt, _ := tensor.ParseDType(name); {
				case i < 4 && (name != "BYTES" || model != "typed"):
					r[name] = special[name][i%len(special[name])]
				case i == 4 && notNumbers[name] != nil && model == "types":
					r[name] = notNumbers[name]
				case name == "BYTES" && model == "typed":
					// KServe writes typed BYTES as text
					r[name] = elements(strings.Repeat("ä", rng.IntN(10)), "z")
				case name == "BYTES":
					b := make([]byte, rng.IntN(20)+1)
					for k := range b {
						b[k] = byte(1 + rng.IntN(255))
					}
					r[name] = elements(string(b), "z")
				case name == "BOOL":
					r[name] = []byte{byte(rng.IntN(2)), byte(rng.IntN(2))}
				case notNumbers[name] != nil: // not a random one, of which some are no numbers
					r[name] = special[name][rng.IntN(len(special[name]))]
				default:
					b := make([]byte, 2*dt.Size())
					for k := range b {
						b[k] = byte(rng.Uint32())
					}
					r[name] = b
				}
			}
			rows = append(rows, r)
		}
		t.Run(model, func(t *testing.T) { echoed(t, s, model, names, rows) })
	}
}

// Rows whose shape is their own: they share a request only with those of the same shape.
func dynamicShapes(t *testing.T, s *server) {
	var rows []row
	for i := range 60 {
		n := 1 + i/7%4
		r := row{"x": nil, "s": nil}
		for k := range n {
			r["x"] = append(r["x"], le(float32(i)+float32(k)/8)...)
			r["s"] = append(r["s"], elements(fmt.Sprintf("row %d element %d", i, k))...)
		}
		rows = append(rows, r)
	}
	echoed(t, s, "ragged", []string{"x", "s"}, rows)
}

// Rows of 10 MiB each.
func largeRows(t *testing.T, s *server) {
	var rows []row
	for i := range 3 {
		x := make([]byte, 10<<20)
		for k := range x {
			x[k] = byte(k>>8) ^ byte(k) ^ byte(i)
		}
		rows = append(rows, row{"x": x})
	}
	echoed(t, s, "large", []string{"x"}, rows)
}

// A codec that does not suit the model fails when it is opened, and the message shows both sides.
func mismatches(t *testing.T, s *server) {
	open := func(model, version string, codec tensor.Codec[[]float32, []float32]) error {
		for _, err := range async.Map(t.Context(), func(yield func([]float32, error) bool) { yield([]float32{1}, nil) },
			sidecar.NewAsyncFunction(sidecar.Config{Endpoint: s.endpoint(), Model: model, Version: version}, codec), async.Config{}) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	for _, c := range []struct {
		name, model, version string
		codec                tensor.Codec[[]float32, []float32]
		want                 error
		says                 []string
	}{
		{"name", "odd", "", tensor.Values[float32, float32]("pixels", "y"), sidecar.ErrMismatch, []string{`"pixels"`, "x INT32[1]"}},
		{"datatype", "odd", "", tensor.Values[float32, float32]("x", "y"), sidecar.ErrMismatch, []string{"float32", "x INT32[1]"}},
		{"output", "digits", "", tensor.Values[float32, float32]("pixels", "scores"), sidecar.ErrMismatch, []string{`"scores"`, "probs FP32[10]"}},
		{"model", "nosuch", "", tensor.Values[float32, float32]("x", "y"), sidecar.ErrModelNotFound, []string{"nosuch"}},
		{"version", "digits", "7", tensor.Values[float32, float32]("pixels", "probs"), sidecar.ErrModelNotFound, []string{"7"}},
	} {
		if c.name == "version" && s.name == "kserve" {
			continue // has no versions and does not look at them
		}
		err := open(c.model, c.version, c.codec)
		if !errors.Is(err, c.want) || !errors.Is(err, sidecar.ErrPermanent) {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, want := range c.says {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is not in %v", c.name, want, err)
			}
		}
	}
	// The shape of a row is the record's own: it fails alone.
	for _, err := range async.Map(t.Context(), func(yield func([]float32, error) bool) { yield([]float32{1, 2, 3}, nil) },
		sidecar.NewAsyncFunction(sidecar.Config{Endpoint: s.endpoint(), Model: "digits"}, tensor.Values[float32, float32]("pixels", "probs")), async.Config{}) {
		if !errors.Is(err, sidecar.ErrBadRecord) || !strings.Contains(err.Error(), "a row of 3 elements") || !strings.Contains(err.Error(), "FP32[64]") {
			t.Errorf("shape: %v", err)
		}
	}
}
