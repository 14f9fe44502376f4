package stream

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/restart"
)

var testSerializer, _ = serializerFor[int](nil)

// Append writes as the default serializer did into checkpoints of version 1.
func (jsonSerializer[T]) Append(dst []byte, v T) ([]byte, error) {
	if raw, ok := any(v).(json.RawMessage); ok && raw != nil {
		return append(dst, raw...), nil
	}
	data, err := json.Marshal(v)
	return append(dst, data...), err
}

// back writes a value and reads it again.
func back[T any](t *testing.T, v T) (again T, size int) {
	t.Helper()
	s, err := serializerFor[T](nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.Append([]byte("before"), v)
	if err != nil {
		t.Fatalf("%+v: %v", v, err)
	}
	data = data[len("before"):]
	if again, err = s.Decode(slices.Clone(data)); err != nil {
		t.Fatalf("%+v is kept as %q: %v", v, data, err)
	}
	return again, len(data)
}

// same checks that values come back as they are.
func same[T any](values ...T) func(t *testing.T) {
	return func(t *testing.T) {
		for _, v := range values {
			if again, _ := back(t, v); !reflect.DeepEqual(again, v) {
				t.Errorf("%#v came back as %#v", v, again)
			}
		}
	}
}

// Types that JSON changes, or that have no form in it.
type (
	twice struct {
		A int `json:"B"`
		B int
	}
	hiddenName struct {
		A int `json:"-"`
		B int `json:",omitempty"`
	}
	lowerAndUpper struct {
		A int `json:"a"`
		B int `json:"A"`
	}
	embedded  struct{ ID, Name string }
	shadowing struct {
		embedded
		ID int
	}
	parts struct {
		Bytes [4]byte
		At    time.Time
		N     big.Int
		Map   map[[2]byte]*level
	}
	withParts struct {
		parts
		Of parts
	}
	within struct {
		time.Time
		Name string
	}
	withPointer struct {
		*url.URL
		N int
	}
	absent struct {
		List  []int          `json:",omitempty"`
		Zero  []int          `json:",omitzero"`
		Map   map[string]int `json:",omitempty"`
		Text  *string        `json:",omitempty"`
		Bytes []byte         `json:",omitempty"`
	}
	withBlank struct {
		_ [0]func()
		_ int
		A int
		_ struct{}
	}
	generic[T any] struct {
		V    T
		Next *generic[T]
	}
	level    int
	levels   map[level][]level
	selfList []selfList
	namedMap map[string]*embedded
	ringed   struct {
		Name string
		Next *ringed
	}
	numbered [3]uint16
)

// MarshalText is for people; the number says more.
func (l level) MarshalText() ([]byte, error) { return []byte("level"), nil }
func (l *level) UnmarshalText([]byte) error  { return nil }

// sealed keeps its value to itself, and has a form in JSON all the same, of pointers to it.
type sealed struct{ v int }

func (s *sealed) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, " {\"v\" : %d}<", s.v), nil }
func (s *sealed) UnmarshalJSON(b []byte) error {
	_, err := fmt.Sscanf(string(b), " {\"v\" : %d}<", &s.v)
	return err
}

// overriding embeds a type with methods and has its own.
type overriding struct {
	time.Time
	zone string
}

func (o overriding) MarshalBinary() ([]byte, error) {
	b, err := o.Time.MarshalBinary()
	return append(b, o.zone...), err
}
func (o *overriding) UnmarshalBinary(b []byte) error {
	o.zone = string(b[15:])
	return o.Time.UnmarshalBinary(b[:15])
}
func (o overriding) GobEncode() ([]byte, error) { return o.MarshalBinary() }
func (o *overriding) GobDecode(b []byte) error  { return o.UnmarshalBinary(b) }

// document is of a kind that would not come back, and has methods of its own.
type document map[string]any

func (d document) MarshalJSON() ([]byte, error)  { return json.Marshal(map[string]any(d)) }
func (d *document) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, (*map[string]any)(d)) }

func TestRecordsComeBackAsTheyAre(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	cet, err := time.LoadLocation("CET")
	if err != nil {
		t.Fatal(err)
	}
	text := "x"
	for name, check := range map[string]func(t *testing.T){
		"texts":      same("", "caf\xe9", "\xff\xfe", "\uFFFD", "<>&\u2028", "a\x00b", strings.Repeat("long", 1000)),
		"keys":       same(map[string]int{"\xff": 1, "\xfe": 2, "": 3}),
		"bytes":      same([]byte(nil), []byte{}, []byte{0, 255}),
		"raw":        same(json.RawMessage(nil), json.RawMessage{}, json.RawMessage(`{"a" : 1.00, "b":"<"} `), json.RawMessage("{not json\xff")),
		"raw within": same(struct{ R, S, T json.RawMessage }{json.RawMessage(" [ 1 ]"), json.RawMessage{}, nil}),
		"integers":   same[int64](math.MinInt64, -1, 0, 1, math.MaxInt64),
		"unsigned":   same[uint64](0, 1, math.MaxUint64),
		"small": same(struct {
			A int8
			B uint16
			C int32
			D uint8
			E bool
		}{-128, 65535, math.MinInt32, 255, true}),
		"floats":               same(0, 1, -1.5, 0.1, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(1), math.Inf(-1)),
		"float32":              same[float32](0, 0.1, -3, math.MaxFloat32, float32(math.Inf(-1))),
		"complex":              same(complex(1, -2), complex(math.Inf(1), 0)),
		"complex64":            same[complex64](complex(1, -2)),
		"json.Number":          same(json.Number("1.50"), "", "1e999"),
		"duration":             same(time.Hour, -1),
		"two names":            same(twice{1, 2}),
		"left out":             same(hiddenName{1, 2}, hiddenName{1, 0}),
		"parts":                same(withParts{}, withParts{parts{[4]byte{1}, time.Unix(1, 2).UTC(), *big.NewInt(9), map[[2]byte]*level{{3}: new(level)}}, parts{}}),
		"case":                 same(lowerAndUpper{1, 2}),
		"shadowed":             same(shadowing{embedded{"a", "b"}, 3}),
		"time within":          same(within{time.Unix(5, 6).UTC(), "name"}, within{}),
		"pointer within":       same(withPointer{&url.URL{Host: "h", User: url.User("u")}, 3}, withPointer{}),
		"nil or empty":         same(absent{}, absent{[]int{}, []int{}, map[string]int{}, &text, []byte{}}),
		"blank fields":         same(withBlank{A: 3}),
		"generic":              same(generic[map[string]int]{map[string]int{"a": 1}, &generic[map[string]int]{}}),
		"levels":               same(levels{1: {2, 3}, -1: nil, 0: {}}),
		"lists of itself":      same(selfList(nil), selfList{}, selfList{nil, {}, {{}}}),
		"arrays":               same([2]numbered{{1, 2, 3}}, [2]numbered{}),
		"array of bytes":       same([16]byte{1, 255}, [16]byte{}),
		"keys of parts":        same(map[[2]string]int{{"a", "b"}: 1}, map[[2]string]int{}),
		"keys of bytes":        same(map[[2]byte]struct{}{{1, 2}: {}}),
		"a map by name":        same(namedMap{"a": nil, "b": {ID: "1"}}),
		"pointers":             same((*int)(nil), new(int)),
		"pointers to pointers": same((**string)(nil), new(*string), func() **string { p := &text; return &p }()),
		"nothing":              same(struct{}{}),
		"sealed":               same(sealed{7}, sealed{}),
		"sealed pointer":       same(&sealed{7}, nil),
		"sealed within":        same(map[string][]sealed{"a": {{1}, {2}}}),
		"big.Int":              same(*big.NewInt(7), *new(big.Int).Lsh(big.NewInt(-3), 200)),
		"big.Int within": same(struct {
			N big.Int
			P *big.Int
		}{*big.NewInt(7), nil}),
		"big.Float":  same(*new(big.Float).SetPrec(200).SetMode(big.ToZero).SetInt64(3)),
		"addresses":  same(netip.MustParseAddrPort("[fe80::1%eth0]:80"), netip.AddrPort{}),
		"net.IP":     same(net.IP{1, 2, 3, 4}, net.IPv4(1, 2, 3, 4), nil),
		"URL":        same(&url.URL{Scheme: "http", User: url.UserPassword("u", "p"), Host: "h", Path: "/a b"}),
		"sql":        same(sql.Null[string]{V: "a", Valid: true}, sql.Null[string]{}),
		"overriding": same(overriding{time.Unix(1, 0).UTC(), "z"}),
		"document":   same(document{"a": "b", "c": []any{1.5, nil}}),
		"times": same(time.Time{}, time.Unix(0, 1).UTC(), time.Unix(1e10, 999_999_999), time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 5400)), time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("odd", 1234)),
			time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("CET", 3600)), time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("Europe/Berlin", -60)),
			time.Date(2026, 1, 2, 3, 4, 5, 6, berlin), time.Date(2026, 7, 2, 3, 4, 5, 6, berlin), time.Date(2026, 1, 2, 3, 4, 5, 6, cet),
			time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 0)), time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("UTC", 0))),
	} {
		t.Run(name, check)
	}
}

// What DeepEqual does not see.
func TestRecordsComeBackAsTheyAreInDetail(t *testing.T) {
	nan := math.Float64frombits(0x7ff8_0000_0000_beef)
	if v, _ := back(t, []float64{nan, math.Copysign(0, -1)}); math.Float64bits(v[0]) != math.Float64bits(nan) || !math.Signbit(v[1]) {
		t.Errorf("not a number and minus zero came back as %x", v)
	}
	if m, _ := back(t, map[float64]string{nan: "a", math.NaN(): "b", 1: "c"}); len(m) != 3 || m[1] != "c" {
		t.Errorf("a map whose keys are not numbers came back as %v", m)
	}
	if v, _ := back(t, time.Now()); v.Location() != time.Local {
		t.Errorf("a local time came back as one of %v", v.Location())
	}
	n := 1
	shared, _ := back(t, struct {
		A, B *int
		M, N map[string]int
		C    *int
	}{A: &n, B: &n, M: nil, N: map[string]int{}, C: new(int)})
	if shared.A != shared.B || shared.A == shared.C {
		t.Error("two pointers to one thing came back as pointers to two")
	}
	ring := &ringed{Name: "a"}
	ring.Next = &ringed{"b", ring}
	if v, _ := back(t, ring); v.Next.Next != v || v.Next.Name != "b" {
		t.Errorf("a ring came back as %+v", v)
	}
	m := map[string]*ringed{}
	var many []*ringed
	for i := range 100 {
		many = append(many, &ringed{Name: fmt.Sprint(i), Next: ring})
		m[fmt.Sprint(i)] = many[i]
	}
	both, _ := back(t, struct {
		Many    []*ringed
		M, Same map[string]*ringed
	}{many, m, m})
	for i, r := range both.Many {
		if both.M[fmt.Sprint(i)] != r || both.Same[fmt.Sprint(i)] != r || r.Next != both.Many[0].Next {
			t.Fatalf("the pointers to number %d came apart", i)
		}
	}
	both.Same["new"] = nil
	if len(both.M) != 101 {
		t.Error("two names of one map came back as two maps")
	}

	s, err := serializerFor[selfList](nil)
	if err != nil {
		t.Fatal(err)
	}
	around := make(selfList, 1)
	around[0] = around
	if _, err := s.Append(nil, around); !errors.Is(err, errTooDeep) {
		t.Errorf("a list in itself: %v", err)
	}
	deep := selfList{}
	for range 30_000 {
		deep = selfList{deep}
	}
	if again, _ := back(t, deep); len(again) != 1 {
		t.Error("a deep list came back as another")
	}
	big := &ringed{}
	for range 30_000 {
		big = &ringed{Next: big}
	}
	back(t, big)
}

// changing is a type as three versions of a program have it.
type (
	changingOne struct {
		A int
		B []string
	}
	changingMore struct {
		B []string
		C string
		A int64
	}
	changingLess struct{ A int }
	changingSize struct {
		A int8
		B []string
	}
	changingKind struct {
		A string
		B []string
	}
)

// TestTypesMayGrow: fields that a later version of the program has more are zero; what would be
// lost is an error.
func TestTypesMayGrow(t *testing.T) {
	first, err := serializerFor[changingOne](nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := first.Append(nil, changingOne{300, []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	more, err := serializerFor[changingMore](nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := more.Decode(data); err != nil || v.A != 300 || !slices.Equal(v.B, []string{"x"}) || v.C != "" {
		t.Errorf("with more fields: %+v, %v", v, err)
	}
	fails := func(err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "resume with the program that wrote it") {
			t.Errorf("%v; want %q", err, want)
		}
	}
	_, err = layoutOnly[changingLess](t).Decode(data)
	fails(err, "the checkpoint holds a field B, which does not fit into stream.changingLess")
	_, err = layoutOnly[changingSize](t).Decode(data)
	fails(err, "field A: the checkpoint holds 300, which does not fit into int8")
	_, err = layoutOnly[changingKind](t).Decode(data)
	fails(err, "field A: the checkpoint holds a signed number, which does not fit into string")
	_, err = layoutOnly[[]int](t).Decode(data)
	fails(err, "the checkpoint holds a struct, which does not fit into []int")
}

func layoutOnly[T any](t *testing.T) Serializer[T] {
	t.Helper()
	s, err := serializerFor[T](nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Types that do not come back.
type (
	unexported  struct{ secret int }
	holdsAny    struct{ Meta map[string]any }
	holdsError  struct{ Err error }
	holdsFunc   struct{ F func() }
	holdsLock   struct{ Mu sync.Mutex }
	holdsAtomic struct{ N atomic.Int64 }
	promotes    struct {
		time.Time
		secret int
	}
	promotesPointer struct {
		*big.Int
		secret int
	}
	promotesInterface struct{ json.Marshaler }
	inner             struct{ A int }
	embedsPointer     struct{ *inner }
	number            int
	embedsNumber      struct{ number }
	embedsSealed      struct {
		sealed
		N int
	}
	recursiveBad struct {
		Next *recursiveBad
		Bad  chan int
	}
	beside struct {
		A rescued
		B *rest
	}
	rest struct{ Back *lost }
	lost struct {
		R *rest
		C chan int
	}
)

// What is not exported is used here, or it would pass for forgotten.
var _ = []any{promotes{secret: 1}, promotesPointer{secret: 1}, embedsNumber{number: 1}}

// rescued has methods of its own, though what is in it cannot be kept.
type rescued struct{ l lost }

func (r rescued) MarshalText() ([]byte, error) { return fmt.Append(nil, r.l.C), nil }
func (*rescued) UnmarshalText([]byte) error    { return nil }

// oneWay can be written and not read.
type oneWay struct{ v int }

func (o oneWay) MarshalJSON() ([]byte, error) { return fmt.Append(nil, o.v), nil }

func TestTypesThatAreRefused(t *testing.T) {
	refused := func(want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "set stream.WithSerializer, or the drain policy") {
			t.Errorf("%v; want %q", err, want)
		}
	}
	is := func(s any, err error) (any, error) { return s, err }
	for want, f := range map[string]func() (any, error){
		"field secret of stream.unexported is not exported":                                                  func() (any, error) { return is(serializerFor[[]unexported](nil)) },
		"field Meta of stream.holdsAny cannot be kept: interface {} is an interface":                         func() (any, error) { return is(serializerFor[*holdsAny](nil)) },
		"field Err of stream.holdsError cannot be kept: error is an interface":                               func() (any, error) { return is(serializerFor[holdsError](nil)) },
		"field F of stream.holdsFunc cannot be kept: func() means nothing in another process":                func() (any, error) { return is(serializerFor[holdsFunc](nil)) },
		"of sync.Mutex is not exported":                                                                      func() (any, error) { return is(serializerFor[holdsLock](nil)) },
		"of atomic.Int64 is not exported":                                                                    func() (any, error) { return is(serializerFor[holdsAtomic](nil)) },
		"field secret of stream.promotes is not exported, and GobEncode belongs to an embedded field":        func() (any, error) { return is(serializerFor[promotes](nil)) },
		"field secret of stream.promotesPointer is not exported, and GobEncode belongs to an embedded field": func() (any, error) { return is(serializerFor[promotesPointer](nil)) },
		"field Marshaler of stream.promotesInterface cannot be kept: json.Marshaler is an":                   func() (any, error) { return is(serializerFor[promotesInterface](nil)) },
		"field inner of stream.embedsPointer is not exported":                                                func() (any, error) { return is(serializerFor[embedsPointer](nil)) },
		"field number of stream.embedsNumber is not exported":                                                func() (any, error) { return is(serializerFor[embedsNumber](nil)) },
		"field sealed of stream.embedsSealed is not exported, and MarshalJSON belongs to an embedded field":  func() (any, error) { return is(serializerFor[embedsSealed](nil)) },
		"field Bad of stream.recursiveBad cannot be kept: chan int means nothing in another proc":            func() (any, error) { return is(serializerFor[map[string]recursiveBad](nil)) },
		"field C of stream.lost cannot be kept":                                                              func() (any, error) { return is(serializerFor[beside](nil)) },
		"field v of stream.oneWay is not exported, and the type has MarshalJSON but not UnmarshalJSON":       func() (any, error) { return is(serializerFor[oneWay](nil)) },
		"of timestamppb.Timestamp is not exported":                                                           func() (any, error) { return is(serializerFor[*timestamppb.Timestamp](nil)) },
		"interface {} is an interface, and its value would come back as another type":                        func() (any, error) { return is(serializerFor[any](nil)) },
	} {
		_, err := f()
		refused(want, err)
	}
}

// A record that is kept is not the one that is used: what happens to it after a restore does not
// change the checkpoint.
func TestRestoredRecordsAreTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts atomic.Int32
		kept := make(chan struct{}, 100)
		fn := async.Func(func(_ context.Context, in json.RawMessage) (string, error) {
			attempt := attempts.Add(1)
			if attempt == 4 {
				return string(in), nil
			}
			for range 3 {
				if attempt == 1 {
					<-kept // the record is in a checkpoint
				}
			}
			clear(in)
			return "", errors.New("not yet")
		}, 0)
		j := New("own", Config{
			Checkpoint: CheckpointConfig{Interval: 10 * time.Millisecond, Store: NewMemoryStore()},
			Restart:    restart.Config{Strategy: restart.FixedDelay, Attempts: 10, Delay: restart.Off},
			Observer: observerFunc(func(e Event) {
				if _, ok := e.(CheckpointCompleted); ok {
					kept <- struct{}{}
				}
			}),
		})
		out := Collect(UnorderedWait(From(j, FromSlice([]json.RawMessage{json.RawMessage("1234")})), fn, async.Config{Retry: async.Retry{Max: async.Off}}))
		if err := j.Run(t.Context()); err != nil || !slices.Equal(out.Results(), []string{"1234"}) {
			t.Errorf("%q, %v", out.Results(), err)
		}
	})
}
