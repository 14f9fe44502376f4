package jsoncodec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/tensor"
)

func model(dt tensor.DType, row ...int64) tensor.Signature {
	return tensor.Signature{Model: "m", Batched: true, Inputs: []tensor.Spec{{Name: "x", DType: dt, Row: row}},
		Outputs: []tensor.Spec{{Name: "y", DType: dt, Row: row}}}
}

func bind(t testing.TB, m Mapping, sig tensor.Signature) *row {
	t.Helper()
	codec, err := New(m).Bind(sig)
	if err != nil {
		t.Fatal(err)
	}
	return codec.(*row)
}

func le(values ...any) []byte {
	var b []byte
	for _, v := range values {
		b, _ = binary.Append(b, binary.LittleEndian, v)
	}
	return b
}

func TestEncode(t *testing.T) {
	f := func(vs ...float32) []byte { return le(vs) }
	const (
		fp32 = tensor.FP32
		i64  = tensor.Int64
		u64  = tensor.Uint64
	)
	row := func(dims ...int64) tensor.Shape { return dims }
	nested := Mapping{Inputs: map[string]Input{"x": {"a.b.c"}}}
	for _, c := range []struct {
		m      Mapping
		dt     tensor.DType
		row    tensor.Shape
		record string
		raw    []byte
		wrong  string // instead of raw
	}{
		{Mapping{}, fp32, row(2), `{"x":[1,-2.5]}`, f(1, -2.5), ""},
		{Mapping{}, fp32, row(2), " {\"k\" : {\"x\":[{}]} ,\t\"x\" : [ 1e2 , 0.1 ]\r\n, \"l\":null}\n", f(100, 0.1), ""},
		{Mapping{}, fp32, row(2), `{"\u0078":[1,2]}`, f(1, 2), ""},
		{Mapping{}, fp32, row(2), `{"\ud800":0,"x":[1,2]}`, f(1, 2), ""},
		{nested, fp32, row(), `{"a":{"b":{"d":1,"c":7},"e":[]},"c":1}`, f(7), ""},
		{nested, fp32, row(), `{"a":{"b":[7]}}`, nil, `field "a.b" is an array; want an object with field "a.b.c"`},
		{nested, fp32, row(), `{"a":{"b":{}}}`, nil, `field "a.b.c" is missing; input "x" takes FP32[]: a number`},
		{nested, fp32, row(), `{"a":{},"a":{"b":{"c":1}}}`, nil, `the record has field "a" twice`},
		{nested, fp32, row(), `{"a":{"b":{"c":1,"c":1}}}`, nil, `the record has field "a.b.c" twice`},

		// Shapes.
		{Mapping{}, fp32, row(), `{"x":3}`, f(3), ""},
		{Mapping{}, fp32, row(1), `{"x":3}`, f(3), ""},
		{Mapping{}, fp32, row(1), `{"x":[3]}`, f(3), ""},
		{Mapping{}, fp32, row(), `{"x":[3]}`, nil, `field "x" holds an array; input "x" takes FP32[]: a number`},
		{Mapping{}, fp32, row(2), `{"x":3}`, nil, `field "x" is a number; input "x" takes FP32[2]: an array of 2 numbers`},
		{Mapping{}, fp32, row(2), `{"x":[1,2,3]}`, nil, `field "x" has the shape [3]; input "x" takes FP32[2]`},
		{Mapping{}, fp32, row(-1), `{"x":[1,2,3]}`, f(1, 2, 3), ""},
		{Mapping{}, fp32, row(-1), `{"x":[]}`, nil, ""},
		{Mapping{}, fp32, row(2, 2), `{"x":[[1,2],[3,4]]}`, f(1, 2, 3, 4), ""},
		{Mapping{}, fp32, row(2, 2), `{"x":[1,2,3,4]}`, f(1, 2, 3, 4), ""},
		{Mapping{}, fp32, row(2, 2), `{"x":[1,2,3]}`, nil, "is a flat array of 3"},
		{Mapping{}, fp32, row(2, 2), `{"x":[[1,2,3],[4,5,6]]}`, nil, "has the shape [2,3]"},
		{Mapping{}, fp32, row(2, 2), `{"x":[[1,2],[3]]}`, nil, "has arrays of 2 and of 1 side by side"},
		{Mapping{}, fp32, row(2, 2), `{"x":[[1,2],3]}`, nil, "elements and arrays side by side"},
		{Mapping{}, fp32, row(2, 2), `{"x":[1,[2,3]]}`, nil, "elements and arrays side by side"},
		{Mapping{}, fp32, row(2, 2), `{"x":[[],1]}`, nil, "elements and arrays side by side"},
		{Mapping{}, fp32, row(2, 2), `{"x":[[[1]]]}`, nil, "is nested too deep"},
		{Mapping{}, fp32, row(-1, -1), `{"x":[[1,2],[3,4],[5,6]]}`, f(1, 2, 3, 4, 5, 6), ""},
		{Mapping{}, fp32, row(-1, -1), `{"x":[1,2]}`, nil, "is not nested deep enough"},
		{Mapping{}, fp32, row(2, 2, 1), `{"x":[[1,2],[3,4]]}`, nil, "is not nested deep enough"},
		{Mapping{}, fp32, row(2, 2, 1), `{"x":[1,2,3,4]}`, f(1, 2, 3, 4), ""},
		{Mapping{}, fp32, row(-1, 2), `{"x":[]}`, nil, ""},
		{Mapping{}, fp32, row(0, 2), `{"x":[]}`, nil, ""},
		{Mapping{}, fp32, row(2, 0), `{"x":[[],[]]}`, nil, ""},
		{Mapping{}, fp32, row(2, 0), `{"x":[[]]}`, nil, "has the shape [1,0]"},

		// Elements.
		{Mapping{}, fp32, row(1), `{"x":null}`, nil, `field "x" holds null; input "x" takes FP32[1]: a number`},
		{Mapping{}, fp32, row(2), `{"x":null}`, nil, `field "x" is null; input "x" takes FP32[2]: an array of 2 numbers`},
		{Mapping{}, fp32, row(2), `{"x":[1,null]}`, nil, "holds null"},
		{Mapping{}, fp32, row(2), `{"x":[1,"2"]}`, nil, "holds a string"},
		{Mapping{}, fp32, row(2), `{"x":[1,{}]}`, nil, "holds an object"},
		{Mapping{}, fp32, row(), `{"x":1e39}`, nil, `field "x": 1e39 is out of the range of FP32`},
		// once rounded, not twice
		{Mapping{}, fp32, row(), `{"x":1.000000059604644775390625000001}`, f(math.Nextafter32(1, 2)), ""},
		{Mapping{}, fp32, row(), `{"x":-0}`, f(float32(math.Copysign(0, -1))), ""},
		{Mapping{}, tensor.FP64, row(), `{"x":1e-400}`, le(0.0), ""},
		{Mapping{}, tensor.FP64, row(), `{"x":1e400}`, nil, "out of the range of FP64"},
		{Mapping{}, tensor.FP64, row(), `{"x":9007199254740993}`, le(9007199254740992.0), ""},
		{Mapping{}, tensor.FP16, row(), `{"x":65520}`, nil, "out of range"},
		{Mapping{}, tensor.BF16, row(2), `{"x":[1,1.00390625]}`, le(uint16(0x3f80), uint16(0x3f80)), ""},
		{Mapping{}, i64, row(), `{"x":9007199254740993}`, le(int64(9007199254740993)), ""},
		{Mapping{}, i64, row(), `{"x":-9223372036854775808}`, le(int64(math.MinInt64)), ""},
		{Mapping{}, i64, row(), `{"x":-9223372036854775809}`, nil, "-9223372036854775809 is out of the range of INT64"},
		{Mapping{}, i64, row(), `{"x":9223372036854775808}`, nil, "out of range"},
		{Mapping{}, u64, row(), `{"x":18446744073709551615}`, le(uint64(math.MaxUint64)), ""},
		{Mapping{}, u64, row(), `{"x":18446744073709551616}`, nil, "not an integer in the range of UINT64"},
		{Mapping{}, u64, row(), `{"x":-1}`, nil, "out of range"},
		{Mapping{}, u64, row(), `{"x":-0}`, le(uint64(0)), ""},
		{Mapping{}, i64, row(), `{"x":1.50e1}`, le(int64(15)), ""},
		{Mapping{}, i64, row(), `{"x":4503599627370496.4}`, nil, "4503599627370496.4 is not an integer"},
		{Mapping{}, i64, row(), `{"x":1e999999999999999999999999}`, nil, "not an integer in the range of INT64"},
		{Mapping{}, i64, row(), `{"x":0.` + strings.Repeat("1", 99) + `}`, nil, "0.11111111111111111111111111111111111111... is not an integer"},
		{Mapping{}, tensor.Int8, row(), `{"x":128}`, nil, "out of range"},
		{Mapping{}, tensor.Bool, row(2), `{"x":[true,false]}`, []byte{1, 0}, ""},
		{Mapping{}, tensor.Bool, row(), `{"x":1}`, nil, `holds a number; input "x" takes BOOL[]: a boolean`},
		{Mapping{}, tensor.Bytes, row(), `{"x":"a\u00e9\ud83d\ude00\n\"\/\\\b\f\r\t"}`, []byte("\x0f\x00\x00\x00aé😀\n\"/\\\b\f\r\t"), ""},
		{Mapping{}, tensor.Bytes, row(2), `{"x":["","ab"]}`, []byte("\x00\x00\x00\x00\x02\x00\x00\x00ab"), ""},
		{Mapping{}, tensor.Bytes, row(), `{"x":"\ud83d"}`, nil, "not valid Unicode"},
		{Mapping{}, tensor.Bytes, row(), `{"x":"\ud83dxxxxxx"}`, nil, "not valid Unicode"},
		{Mapping{}, tensor.Bytes, row(), `{"x":"\ud83d\u0041"}`, nil, "not valid Unicode"},
		{Mapping{}, tensor.Bytes, row(), `{"x":"\ude00"}`, nil, "not valid Unicode"},
		{Mapping{}, tensor.Bytes, row(), "{\"x\":\"\xff\"}", nil, "not valid Unicode"},
		{Mapping{}, tensor.Bytes, row(), `{"x":1}`, nil, "holds a number"},

		// Records.
		{Mapping{}, fp32, row(), ` `, nil, "the record is empty; want one JSON object"},
		{Mapping{}, fp32, row(), `[1]`, nil, "the record is an array; want one JSON object"},
		{Mapping{}, fp32, row(), `null`, nil, "the record is null; want one JSON object"},
		{Mapping{}, fp32, row(), `nothing`, nil, "the record is not JSON (invalid character 'o' in literal null (expecting 'u')); want one JSON object"},
		{Mapping{}, fp32, row(), "\xff", nil, "the record is not JSON (invalid character 'ÿ' looking for beginning of value); want one JSON object"},
		{Mapping{}, fp32, row(), `{}`, nil, `field "x" is missing; input "x" takes FP32[]: a number`},
		{Mapping{}, fp32, row(), `{"x":1}{`, nil, "invalid JSON at byte 7: '{' where nothing more"},
		{Mapping{}, fp32, row(), `{"x":1`, nil, "invalid JSON at byte 6: it ends where a comma or the object's end should follow"},
		{Mapping{}, fp32, row(), `{"x":1,}`, nil, "'}' where a field's name should follow"},
		{Mapping{}, fp32, row(), `{"x":}`, nil, "'}' where a value should follow"},
		{Mapping{}, fp32, row(), `{"x":01}`, nil, "'1' where a comma"},
		{Mapping{}, fp32, row(), `{"x":-}`, nil, "where a digit should follow"},
		{Mapping{}, fp32, row(), `{"x":1.}`, nil, "where a digit should follow"},
		{Mapping{}, fp32, row(), `{"x" 1}`, nil, "'1' where a colon"},
		{Mapping{}, fp32, row(), `{"k":tru,"x":1}`, nil, "where the rest of true"},
		{Mapping{}, fp32, row(), "{\"k\":\"\n\",\"x\":1}", nil, "control character 0x0a"},
		{Mapping{}, fp32, row(), `{"x":1,"y":2}`, nil, `the record already has a field "y", where output "y" goes`},
		{Mapping{Overwrite: true}, fp32, row(), `{"x":1,"y":2}`, f(1), ""},
		{Mapping{Overwrite: true}, fp32, row(), `{"x":1,"y":2,"y":3}`, nil, `the record has field "y" twice`},
	} {
		sig := model(c.dt, c.row...)
		b := tensor.NewBatch(&sig)
		err := bind(t, c.m, sig).Encode(b, []byte(c.record))
		if err == nil {
			err = b.EndRow()
		}
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s%v of %.80s: %v; want %q", c.dt, c.row, c.record, err, c.wrong)
			}
			continue
		}
		if got := b.Column(0).Raw(); err != nil || !bytes.Equal(got, c.raw) {
			t.Errorf("%s%v of %.80s: % x, %v; want % x", c.dt, c.row, c.record, got, err, c.raw)
		}
	}
}

// One field may feed two inputs, each in its own datatype.
func TestOneFieldForTwoInputs(t *testing.T) {
	sig := model(tensor.Int8)
	sig.Inputs = append(sig.Inputs, tensor.Spec{Name: "z", DType: tensor.FP32})
	r := bind(t, Mapping{Inputs: map[string]Input{"x": {"v"}, "z": {"v"}}}, sig)
	b := tensor.NewBatch(&sig)
	if err := r.Encode(b, []byte(`{"v":-3,"w":0}`)); err != nil || b.EndRow() != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Column(0).Raw(), []byte{0xfd}) || !bytes.Equal(b.Column(1).Raw(), le(float32(-3))) {
		t.Errorf("% x, % x", b.Column(0).Raw(), b.Column(1).Raw())
	}
}

func TestIntegerAgainstBig(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	limit := new(big.Int).Lsh(big.NewInt(1), 64)
	for range 50000 {
		lit := fmt.Sprint(rng.Uint64() >> rng.IntN(64))
		if rng.IntN(3) == 0 {
			lit += strings.Repeat("0", rng.IntN(25))
		}
		if rng.IntN(2) == 0 {
			lit += fmt.Sprintf(".%d%s", rng.IntN(100), strings.Repeat("0", rng.IntN(4)))
		}
		if rng.IntN(2) == 0 {
			lit += fmt.Sprintf("e%+d", rng.IntN(40)-20)
		}
		if rng.IntN(4) == 0 {
			lit = "-" + lit
		}
		want, _ := new(big.Rat).SetString(lit)
		abs := new(big.Int).Abs(want.Num())
		fits := want.IsInt() && abs.Cmp(limit) < 0
		v, negative, ok := integer([]byte(lit))
		if ok != fits || ok && (v != abs.Uint64() || negative != (lit[0] == '-')) {
			t.Fatalf("%s is %d, %v, %v (seed %d)", lit, v, negative, ok, seed)
		}
	}
}

// A number is rounded to the nearest value, on each path by which it is read.
func TestNumbersAgainstStrconv(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 2))
	for _, dt := range []tensor.DType{tensor.FP32, tensor.FP64} {
		sig := model(dt)
		r := bind(t, Mapping{}, sig)
		b := tensor.NewBatch(&sig)
		for range 50000 {
			lit := fmt.Sprint(int64(rng.Uint64()) >> rng.IntN(63))
			if at := rng.IntN(len(lit)); at > 0 && lit[at-1] != '-' {
				lit = lit[:at] + "." + lit[at:]
			}
			if rng.IntN(4) == 0 {
				lit += fmt.Sprintf("e%d", rng.IntN(40)-20)
			}
			b.Reset()
			if err := r.Encode(b, fmt.Appendf(nil, `{"x":%s}`, lit)); err != nil || b.EndRow() != nil {
				t.Fatalf("%s: %v (seed %d)", lit, err, seed)
			}
			bits := 8 * dt.Size()
			v, _ := strconv.ParseFloat(lit, bits)
			want := le(v)
			if bits == 32 {
				want = le(float32(v))
			}
			if got := b.Column(0).Raw(); !bytes.Equal(got, want) {
				t.Fatalf("%s as %s is % x, want % x (seed %d)", lit, dt, got, want, seed)
			}
		}
	}
}
