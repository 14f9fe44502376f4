package size

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

type picture struct {
	Name   string
	Pixels []byte
}

type inner struct {
	Tags []string
	Next *picture
}

type outer struct {
	ID    int64
	Two   [2]inner
	Rows  [][]float32
	When  time.Time
	Extra map[string]any
	Any   any
	F     func()
	E     struct{}
	C     chan int
	own   *picture
	label string
}

type tree struct {
	Label string
	Kids  []tree
	Up    *tree
}

// TestOf: the bytes of a value are those of its type and of all that it refers to.
func TestOf(t *testing.T) {
	kib := string(make([]byte, 1<<10))
	check(t, "number", int32(7), 4, true)
	check(t, "string", kib, 1<<10, true)
	check(t, "bytes", []byte(kib), 1<<10, true)
	check(t, "JSON", json.RawMessage(kib), 1<<10, true)
	check(t, "floats", make([]float32, 100), 400, true)
	check(t, "struct", picture{kib, []byte(kib)}, 40+2<<10, true)
	check(t, "pointer", &picture{kib, nil}, 8+40+1<<10, true)
	check(t, "nil pointer", (*picture)(nil), 8, true)
	check(t, "slice of structs", []picture{{kib, nil}, {"", []byte(kib)}}, 24+2*40+2<<10, true)
	check(t, "array of strings", [3]string{kib, "", kib}, 48+2<<10, true)
	check(t, "map", map[string]int{kib: 1}, 8+24+1<<10, true)
	check(t, "map of values without references", map[int]int{1: 1, 2: 2}, 8+32, true)
	check(t, "any", any(kib), 16+16+1<<10, true)
	check(t, "JSON object", map[string]any{"a": []any{kib, 1.5, nil}, "b": map[string]any{"c": kib}},
		8+2*32+2+24+3*16+16+8+8+32+1+16+2<<10, true)
	check(t, "nothing", struct{}{}, 0, true)
	base := int64(8 + 2*32 + 24 + 24 + 8 + 16 + 8 + 8 + 8 + 16)
	check(t, "all of it", outer{}, base, true)
	check(t, "all of it, filled", outer{
		Two:  [2]inner{{Tags: []string{kib, kib}}, {Next: &picture{Name: kib}}},
		Rows: [][]float32{{1, 2}, {3}}, Any: picture{Pixels: []byte(kib)},
		When: time.Now(), own: &picture{Name: kib}, label: "ab",
	}, base+2+2*16+2<<10+40+1<<10+2*24+3*4+40+1<<10, true)
	check(t, "tree", tree{Label: kib, Kids: []tree{{Label: kib}}}, 48+48+2<<10, false)
}

func check[T any](t *testing.T, name string, v T, want int64, complete bool) {
	t.Run(name, func(t *testing.T) {
		count, whole := Of[T]()
		if got := count(&v); got != want || whole != complete {
			t.Errorf("%d bytes, complete %v; want %d, %v", got, whole, want, complete)
		}
	})
}

// TestCycle: a value that contains itself is counted in bounded time.
func TestCycle(t *testing.T) {
	m := map[string]any{}
	for i := range 100 {
		m[fmt.Sprint(i)] = m
	}
	count, _ := Of[map[string]any]()
	if n := count(&m); n < 100*32 {
		t.Error(n)
	}
	root := tree{Label: "root"}
	root.Up, root.Kids = &root, []tree{root}
	trees, _ := Of[*tree]()
	p := &root
	if n := trees(&p); n < 48 {
		t.Error(n)
	}
}

// TestManyValues: of more values than a walk looks at, the rest is taken to be like those it saw.
func TestManyValues(t *testing.T) {
	kib := string(make([]byte, 1<<10))
	list, object := make([]any, 300_000), map[string]any{}
	rows := make([]any, 300)
	for i := range list {
		list[i] = kib
		object[fmt.Sprint(i)] = kib
	}
	for i := range rows {
		rows[i] = list[:1000]
	}
	for name, v := range map[string]any{"list": list, "object": object, "lists of lists": map[string]any{"rows": rows}} {
		count, _ := Of[any]()
		want := int64(300_000 << 10)
		if got := count(&v); got < want || got > want*11/10 {
			t.Errorf("%s: %d bytes; want some more than %d", name, got, want)
		}
	}
}

// TestNoAllocation: what has no maps and interfaces is counted without garbage.
func TestNoAllocation(t *testing.T) {
	count, _ := Of[outer]()
	v := outer{Two: [2]inner{{Tags: []string{"a", "b"}}}, Rows: [][]float32{{1}, {2}}}
	v.Extra, v.Any = nil, nil
	if n := testing.AllocsPerRun(100, func() { count(&v) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
