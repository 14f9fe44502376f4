package server

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"
	"weak"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/tensor"
)

// holder drives a batcher with two rows a batch and one instance. Of the requests it knows only
// whether they are still in memory.
type holder struct {
	*testing.T
	b     *batcher
	now   time.Time
	alive map[string]weak.Pointer[request]
}

func newHolder(t *testing.T) *holder {
	return &holder{t, newBatcher(2, 1, 0, time.Minute), time.Unix(0, 0), map[string]weak.Pointer[request]{}}
}

func (h *holder) submit(name string, caller uint64, rows int) {
	r := &request{caller: caller, rows: rows, inputs: []tensor.Tensor{{Raw: make([]byte, 1<<10)}}}
	h.alive[name] = weak.Make(r)
	h.b.submit(h.now, r)
	h.b.step(h.now)
}

func (h *holder) giveUp(names ...string) {
	for _, name := range names {
		h.b.abandon(h.now, h.alive[name].Value(), errors.New("gone"))
		h.b.step(h.now)
	}
}

func (h *holder) finish(v verdict) {
	x := h.b.running[0]
	if v.err == nil {
		v.outputs = make([][]tensor.Tensor, len(x.pieces))
	}
	h.b.finish(h.now, x, v)
	h.b.step(h.now)
}

// holds checks which requests are in memory.
func (h *holder) holds(want ...string) {
	h.Helper()
	runtime.GC()
	var got []string
	for name, r := range h.alive {
		if r.Value() != nil {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		h.Errorf("it holds %q, want %q", got, want)
	}
	consistent(h, h.b)
	runtime.KeepAlive(h.b)
}

// A request that is over leaves memory as soon as no running batch needs it, wherever it was. Its
// tensors may be large, and the admission does not count them any more.
func TestRequestsThatAreOverAreLetGo(t *testing.T) {
	content := verdict{err: &failure{code: codes.Internal}, content: true}
	t.Run("given up while they wait", func(t *testing.T) {
		h := newHolder(t)
		h.submit("runs", 1, 1)
		for _, name := range []string{"a", "b", "c", "d"} {
			h.submit(name, 1, 2)
		}
		h.submit("other's", 2, 2)
		h.giveUp("b")
		h.holds("a", "c", "d", "other's", "runs")
		h.giveUp("a")
		h.holds("c", "d", "other's", "runs")
		h.giveUp("d", "other's")
		h.holds("c", "runs")
		h.giveUp("c")
		h.holds("runs")
		h.finish(verdict{})
		h.holds()
	})
	t.Run("too late, or too long in the queue", func(t *testing.T) {
		h := newHolder(t)
		h.submit("runs", 1, 1)
		h.submit("late", 1, 1)
		h.submit("waits", 1, 1)
		h.b.expire(h.now, h.alive["late"].Value())
		h.b.step(h.now)
		h.holds("runs", "waits")
		h.now = h.now.Add(h.b.timeout)
		h.b.step(h.now)
		h.holds("runs")
	})
	t.Run("answered, of a line that is never empty", func(t *testing.T) {
		h := newHolder(t)
		h.submit("a", 1, 2)
		for _, name := range []string{"b", "c", "d", "e"} {
			h.submit(name, 1, 2)
			h.finish(verdict{})
			h.holds(name) // it runs
			h.submit(name+" next", 1, 2)
			h.giveUp(name)
			h.holds(name, name+" next")
			h.finish(verdict{})
			h.holds(name + " next")
		}
	})
	t.Run("in a failed batch", func(t *testing.T) {
		h := newHolder(t)
		h.submit("runs", 1, 2)
		h.submit("a", 1, 1)
		h.submit("b", 2, 1)
		h.submit("long", 3, 2)
		h.submit("later", 3, 2)
		h.finish(verdict{})
		h.holds("a", "b", "later", "long")
		h.finish(content) // a and b are in doubt; a runs alone, and long is next
		h.finish(verdict{})
		h.holds("b", "later", "long")
		h.giveUp("b") // while long runs
		h.holds("later", "long")
		h.finish(content) // its two rows are in doubt, and one runs
		h.giveUp("long")
		h.holds("later", "long")
		h.finish(verdict{})
		h.holds("later")
		h.finish(verdict{})
		h.holds()
	})
	t.Run("in doubt, and answered", func(t *testing.T) {
		h := newHolder(t)
		h.submit("a", 1, 2)
		h.finish(content)
		h.finish(content)
		h.holds("a")
		h.finish(content)
		h.holds()
	})
	t.Run("all at the end", func(t *testing.T) {
		h := newHolder(t)
		for i, name := range []string{"a", "b", "c", "d"} {
			h.submit(name, uint64(i), 2)
		}
		h.finish(content)
		h.b.abandonAll(h.now, errClosed)
		h.b.step(h.now)
		h.holds("a") // a row of it runs
		h.finish(verdict{})
		h.holds()
	})
}

// consistent checks that the batcher's counts and links agree with its parts.
func consistent(t interface {
	Helper()
	Errorf(string, ...any)
}, b *batcher) {
	t.Helper()
	queued := 0
	for key, g := range b.groups {
		rows, lines := 0, 0
		for l := g.first; l != nil; l = l.next {
			lines++
			if g.lines[l.caller] != l || l.group != g || l.first == nil || l.next == nil && g.last != l {
				t.Errorf("the line of caller %d is not where it should be", l.caller)
			}
			for r := l.first; r != nil; r = r.behind {
				queued++
				rows += r.rows - r.taken
				if r.done || !r.queued || r.line != l || r.key != key || r.behind == nil && l.last != r {
					t.Errorf("a request in the line of caller %d does not belong there", l.caller)
				}
			}
		}
		if rows != g.rows || lines != len(g.lines) || lines == 0 {
			t.Errorf("%d rows in %d lines; it says %d rows in %d", rows, lines, g.rows, len(g.lines))
		}
	}
	arrived := 0
	for r := b.oldest; r != nil; r = r.next {
		arrived++
	}
	rows, suspects := 0, map[*request]int{}
	for _, pieces := range b.suspect {
		if len(pieces) == 0 {
			t.Errorf("an empty part is in doubt")
		}
		for _, p := range pieces {
			rows += p.to - p.from
			suspects[p.req]++
			if p.req.done {
				t.Errorf("a request that is done is in doubt")
			}
		}
	}
	for r, n := range suspects {
		if r.suspects != n {
			t.Errorf("%d pieces of a request are in doubt; it says %d", n, r.suspects)
		}
	}
	if arrived != queued || rows != b.suspected {
		t.Errorf("%d requests in lines, %d in the order of arrival; %d rows are in doubt, it says %d", queued, arrived, rows, b.suspected)
	}
}
