package tensor

import (
	"bytes"
	"testing"
)

// TestBuffersShrink: one large row among small ones, completed or rolled back, does not keep its
// buffers large for ever. Buffers that are needed from time to time stay.
func TestBuffersShrink(t *testing.T) {
	sig := &Signature{Inputs: []Spec{{Name: "x", DType: Bytes, Row: Shape{}}}, Outputs: []Spec{{Name: "y", DType: Bytes, Row: Shape{Dynamic}}}, Batched: true}
	b, rows := NewBatch(sig), NewRows(sig)
	c := &b.cols[0]
	use := func(size int, back bool) {
		mark := b.Mark()
		if err := c.AppendBytes(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := b.EndRow(); err != nil {
			t.Fatal(err)
		}
		if back {
			b.Rollback(mark)
		}
		b.Reset()
	}
	answer := func(elements int) {
		if err := rows.Set(0, Bytes, Shape{1, int64(elements)}, make([]byte, 4*elements), 1); err != nil {
			t.Fatal(err)
		}
		rows.Reset()
	}
	const large = 1 << 20
	for _, back := range []bool{false, true} {
		use(large, back)
		answer(large)
		if cap(c.raw) < large || cap(rows.outs[0].at) < large {
			t.Fatalf("%d and %d are kept at once", cap(c.raw), cap(rows.outs[0].at))
		}
		for range 2 * usesWatched {
			use(100, false)
			answer(100)
		}
		if cap(c.raw) > 4096 || cap(rows.outs[0].at) > 4096 {
			t.Errorf("after a while %d bytes and %d places are kept; taken back %v", cap(c.raw), cap(rows.outs[0].at), back)
		}
	}
	for i := range 4 * usesWatched {
		if i%(usesWatched/2) == 0 {
			use(large, false)
		} else {
			use(100, false)
		}
		if cap(c.raw) < large {
			t.Fatalf("what is needed every %d uses is made anew", usesWatched/2)
		}
	}
	if n := testing.AllocsPerRun(4*usesWatched, func() {
		c.AppendBytes(nil)
		b.EndRow()
		b.Reset()
	}); n > 0 {
		t.Errorf("%v allocations a request", n)
	}
	// Memory that was lent is not dropped.
	memory := bytes.Repeat([]byte{1}, large)
	b.Use([][]byte{memory})
	for range 3 * usesWatched {
		if use(10, false); cap(c.raw) != large {
			t.Fatal("the memory of Use is given up")
		}
	}
}
