package async_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// More rows of the conformance list (docs/conformance.md), in every order.

// inEveryOrder runs a row in the three orders.
func inEveryOrder(t *testing.T, name string, f func(*testing.T, async.Order)) {
	t.Helper()
	for _, o := range everyOrder {
		row(t, name+"/"+o.String(), func(t *testing.T) { f(t, o) })
	}
}

// admitKeyed is rig.admit with a key for each record.
func admitKeyed(r *rig, v int, key string) bool {
	if r.op.Admit([]async.Record[int]{{Value: v, Time: async.EventTime(v), Position: r.next, Key: key}}) == 0 {
		return false
	}
	r.next++
	return true
}

// feedAll admits 1..n, with the keys that key gives, as there is room, and then ends the input.
func feedAll(r *rig, n int, key func(int) string) {
	for v := 1; v <= n; {
		if admitKeyed(r, v, key(v)) {
			v++
		} else if r.run(func() bool { return r.op.Room() > 0 }); r.err != nil {
			r.t.Fatal(r.err)
		}
	}
	r.op.End()
	r.run(nil)
}

func ownKey(v int) string { return fmt.Sprint(v) }

func TestQueueRows(t *testing.T) {
	inEveryOrder(t, "1, 2 a watermark and a record fill two slots", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Capacity: 2}, nil)
		if !r.op.Watermark(async.Watermark{Time: 5}) || !r.admit(7) {
			t.Fatal("capacity 2 takes a watermark and a record")
		}
		if r.admit(8) || r.op.Watermark(async.Watermark{Time: 6}) {
			t.Fatal("capacity 2 took a third")
		}
		r.step().want("W5")
		r.step().want("W5")
		r.double(7)
		r.step().want("W5 14@7")
	})
	inEveryOrder(t, "3 completed and popped before the next", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Capacity: 1}, nil)
		if !r.admit(1) || r.admit(2) {
			t.Fatal("capacity 1 takes one")
		}
		r.step().double(1)
		if r.admit(2) {
			t.Fatal("completion freed the slot; only emission does (A3)")
		}
		r.step().want("2@1")
		if !r.admit(2) {
			t.Fatal("emission did not free the slot")
		}
	})
	inEveryOrder(t, "4 watermarks only", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Capacity: 2}, nil)
		r.op.Watermark(async.Watermark{Time: 1})
		r.op.Watermark(async.Watermark{Time: 2})
		r.step().want("W1 W2")
	})
	row(t, "5 ordered", func(t *testing.T) {
		r := newRig(t, async.Ordered, async.Config{}, nil)
		r.admit(1, 2)
		r.op.Watermark(async.Watermark{Time: 3})
		r.admit(4)
		r.step().double(2, 4)
		r.step().want("")
		r.double(1)
		r.step().want("2@1 4@2 W3 8@4")
	})
	// each record has its own key
	for _, order := range []async.Order{async.Unordered, async.Keyed} {
		row(t, "6 "+order.String(), func(t *testing.T) {
			r := newRig(t, order, async.Config{}, nil)
			for v := 1; v <= 6; v++ {
				admitKeyed(r, v, ownKey(v))
				if v%2 == 0 && v < 6 {
					r.op.Watermark(async.Watermark{Time: async.EventTime(v)})
				}
			}
			r.step().double(3)
			r.step().want("")
			r.double(2)
			r.step().want("4@2")
			r.double(6, 4)
			r.step().want("4@2")
			r.double(1)
			r.step().want("4@2 2@1 W2 6@3 8@4 W4 12@6")
			r.double(5)
			r.step().want("4@2 2@1 W2 6@3 8@4 W4 12@6 10@5")
		})
	}
	row(t, "8 unordered, capacity 2", func(t *testing.T) {
		r := newRig(t, async.Unordered, async.Config{Capacity: 2}, nil)
		if !r.admit(1, 2) || r.op.Watermark(async.Watermark{Time: 2}) {
			t.Fatal("capacity 2 takes two records and no watermark")
		}
		r.step().double(2)
		if r.step().want("4@2"); !r.op.Watermark(async.Watermark{Time: 2}) || r.admit(3) {
			t.Fatal("one slot was free, for the watermark")
		}
		r.double(1)
		if r.step().want("4@2 2@1 W2"); !r.admit(3) {
			t.Fatal("no room for the last one")
		}
		r.op.End()
		r.step().double(3)
		r.run(nil).want("4@2 2@1 W2 6@3")
	})
	inEveryOrder(t, "9, 10 eight records through capacity 6", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Capacity: 6}, nil)
		r.answer = func(r *rig, c async.Call[int]) {
			time.Sleep(time.Duration(10-c.Record.Value) * time.Second / 10) // the later, the sooner
			r.double(c.Record.Value)
		}
		feedAll(r, 8, func(v int) string { return fmt.Sprint(v % 2) })
		const inOrder = "2@1 4@2 6@3 8@4 10@5 12@6 14@7 16@8"
		if got := strings.Join(r.out, " "); sorted(r.out) != sorted(strings.Fields(inOrder)) || (got == inOrder) != (order == async.Ordered) {
			t.Fatal(r.out)
		}
		if order == async.Keyed { // two keys, each in its order
			var keys [2][]string
			for _, s := range r.out {
				last := s[len(s)-1]
				keys[last%2] = append(keys[last%2], s)
			}
			if got := fmt.Sprint(keys); got != "[[4@2 8@4 12@6 16@8] [2@1 6@3 10@5 14@7]]" {
				t.Fatal(got)
			}
		}
	})
}
