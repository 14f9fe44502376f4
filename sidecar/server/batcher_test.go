package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	"github.com/tensorferry/tensorferry/tensor"
)

// script drives a batcher by hand. Requests have names, and events are written down as text.
type script struct {
	b     *batcher
	start time.Time
	now   time.Time
	names map[*request]string
	log   []string
}

func newScript(maxRows, instances int, window time.Duration) *script {
	start := time.Unix(0, 0)
	return &script{b: newBatcher(maxRows, instances, window, time.Minute), start: start, now: start, names: map[*request]string{}}
}

func (s *script) submit(name string, caller uint64, rows int) *request {
	r := &request{caller: caller, rows: rows}
	s.names[r] = name
	s.b.submit(s.now, r)
	s.step()
	return r
}

func (s *script) at(ms int) { s.now = s.start.Add(time.Duration(ms) * time.Millisecond); s.step() }

func (s *script) step() {
	e := s.b.step(s.now)
	at := s.now.Sub(s.start).Milliseconds()
	for _, x := range e.runs {
		s.log = append(s.log, fmt.Sprintf("%d run %s", at, s.text(x.pieces)))
	}
	for _, x := range e.cancels {
		s.log = append(s.log, fmt.Sprintf("%d cancel %s", at, s.text(x.pieces)))
	}
	for _, r := range e.answers {
		outcome := "ok"
		if r.err != nil {
			outcome = r.err.Error()
		} else if len(r.bad) > 0 {
			outcome = "bad"
			slices.SortFunc(r.bad, func(a, b badRow) int { return a.row - b.row })
			for _, b := range r.bad {
				outcome += fmt.Sprintf(" %d", b.row)
			}
		}
		s.log = append(s.log, fmt.Sprintf("%d answer %s %s", at, s.names[r], outcome))
	}
}

func (s *script) text(pieces []piece) string {
	var out []string
	for _, p := range pieces {
		if p.from == 0 && p.to == p.req.rows {
			out = append(out, s.names[p.req])
		} else {
			out = append(out, fmt.Sprintf("%s[%d:%d]", s.names[p.req], p.from, p.to))
		}
	}
	return strings.Join(out, "+")
}

// finish ends the batch that began first.
func (s *script) finish(v verdict) { s.finishBatch(s.b.running[0], v) }

func (s *script) finishBatch(x *batch, v verdict) {
	if v.err == nil {
		v.outputs = make([][]tensor.Tensor, len(x.pieces))
	}
	s.b.finish(s.now, x, v)
	s.step()
}

func (s *script) want(t *testing.T, lines ...string) {
	t.Helper()
	if got := strings.Join(s.log, "\n"); got != strings.Join(lines, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(lines, "\n"))
	}
}

var contentFailure = verdict{err: &failure{code: codes.Internal, message: "broken"}, content: true}

func TestIdleModelRunsAtOnce(t *testing.T) {
	s := newScript(4, 1, 10*time.Millisecond)
	s.submit("a", 1, 1)
	s.at(1)
	s.submit("b", 1, 1)
	s.submit("c", 1, 2)
	s.submit("d", 1, 1)
	s.at(2)
	s.finish(verdict{})
	s.finish(verdict{})
	s.want(t, "0 run a", "2 run b+c+d", "2 answer a ok", "2 answer b ok", "2 answer c ok", "2 answer d ok")
}

// Row 40 of the conformance list: the window of a batch that has run, because it
// was full, does not flush the next one early.
func TestConformance40WindowOfARunBatch(t *testing.T) {
	s := newScript(2, 3, 10*time.Millisecond)
	s.submit("busy", 1, 2) // from now on an instance is busy, and two are free
	s.submit("a", 1, 1)    // opens a window that ends at 10
	s.at(3)
	s.submit("b", 1, 1) // fills the batch
	s.at(5)
	s.submit("c", 1, 1) // opens its own window, which ends at 15
	if at, ok := s.b.wake(s.now); !ok || at.Sub(s.start) != 15*time.Millisecond {
		t.Errorf("the next wake-up is at %v, want 15 ms", at.Sub(s.start))
	}
	s.at(10) // the end of the first window
	s.at(14)
	s.at(15)
	s.want(t, "0 run busy", "3 run a+b", "15 run c")
}

// Of the requests that are abandoned, those whose rows never went to the model count as untaken.
func TestGivenUp(t *testing.T) {
	s := newScript(2, 1, 0)
	s.submit("failed", 1, 1)
	s.finish(verdict{})
	s.submit("a", 1, 1)
	s.submit("b", 1, 1)
	s.submit("c", 2, 1)
	s.finish(verdict{})    // of a; b and c run together
	s.submit("wide", 3, 3) // waits
	s.finish(contentFailure)
	s.submit("late", 4, 1)
	s.log = nil
	untaken := &failure{message: "untaken"}
	s.b.abandonAll(s.now, untaken)
	s.step()
	// b and c wait to be run alone, or one of them runs.
	s.want(t, "0 cancel b", "0 answer wide untaken", "0 answer late untaken", "0 answer c "+errInterrupted.message, "0 answer b "+errInterrupted.message)

	s = newScript(2, 1, 0)
	s.submit("wide", 1, 3) // two rows run, and one waits
	s.submit("next", 2, 1)
	s.log = nil
	s.b.abandonAll(s.now, untaken)
	s.step()
	s.want(t, "0 cancel wide[0:2]", "0 answer wide "+errInterrupted.message, "0 answer next untaken")
}

func TestWindowCountsOnlyWhileBusy(t *testing.T) {
	s := newScript(4, 2, 10*time.Millisecond)
	s.submit("a", 1, 4)
	s.at(1)
	s.submit("b", 1, 1) // one instance is free, but a runs: b waits to be joined
	s.at(2)
	s.finish(verdict{}) // idle: b runs at once
	s.want(t, "0 run a", "2 run b", "2 answer a ok")
}

func TestLeftoverKeepsTheWindowOfItsOwnArrival(t *testing.T) {
	s := newScript(2, 3, 10*time.Millisecond)
	s.submit("busy", 1, 2)
	s.at(1)
	s.submit("a", 1, 1)
	s.at(4)
	s.submit("b", 2, 2) // does not fit to a: they stay apart, and b is full by itself
	s.at(11)
	s.want(t, "0 run busy", "4 run a", "4 run b")
}

func TestCallersTakeTurns(t *testing.T) {
	s := newScript(4, 1, 0)
	s.submit("first", 9, 1)
	for i := range 8 {
		s.submit(fmt.Sprintf("a%d", i), 1, 1)
	}
	s.submit("b0", 2, 1)
	s.submit("b1", 2, 1)
	s.submit("c0", 3, 1)
	for range 4 {
		s.finish(verdict{})
	}
	s.log = slices.DeleteFunc(s.log, func(l string) bool { return strings.Contains(l, "answer") })
	s.want(t, "0 run first", "0 run a0+b0+c0+a1", "0 run b1+a2+a3+a4", "0 run a5+a6+a7")
}

func TestRequestsThatFitAreNotCut(t *testing.T) {
	s := newScript(4, 1, 0)
	s.submit("first", 9, 1)
	s.submit("a", 1, 3)
	s.submit("b", 2, 3)
	s.submit("c", 3, 1)
	s.submit("huge", 4, 10)
	for range 7 {
		if len(s.b.running) > 0 {
			s.finish(verdict{})
		}
	}
	s.want(t, "0 run first", "0 run a+c", "0 answer first ok", "0 run b+huge[0:1]", "0 answer a ok", "0 answer c ok",
		"0 run huge[1:5]", "0 answer b ok", "0 run huge[5:9]", "0 run huge[9:10]", "0 answer huge ok")
}

func TestGroupsDoNotMixAndTheOldestRunsFirst(t *testing.T) {
	s := newScript(4, 1, 0)
	s.submit("first", 1, 1)
	x := &request{key: "x", caller: 1, rows: 1}
	s.names[x] = "x"
	s.at(1)
	s.b.submit(s.now, x)
	s.at(2)
	s.submit("y1", 1, 1)
	s.submit("y2", 1, 1)
	s.finish(verdict{})
	s.finish(verdict{})
	s.finish(verdict{})
	s.want(t, "0 run first", "2 run x", "2 answer first ok", "2 run y1+y2", "2 answer x ok", "2 answer y1 ok", "2 answer y2 ok")
}

func TestFailedBatchIsHalvedUntilTheBadRowIsKnown(t *testing.T) {
	s := newScript(8, 1, 0)
	s.submit("first", 9, 1)
	s.submit("a", 1, 2)
	s.submit("poison", 2, 4) // its row 2
	s.submit("b", 3, 2)
	s.finish(verdict{})
	for len(s.b.running) > 0 {
		bad := false
		for _, p := range s.b.running[0].pieces {
			bad = bad || s.names[p.req] == "poison" && p.from <= 2 && p.to > 2
		}
		if bad {
			s.finish(contentFailure)
		} else {
			s.finish(verdict{})
		}
	}
	s.want(t, "0 run first", "0 run a+poison+b", "0 answer first ok", "0 run a+poison", "0 run b", "0 run a", "0 answer b ok",
		"0 run poison", "0 answer a ok", "0 run poison[0:2]", "0 run poison[2:4]", "0 run poison[2:3]", "0 run poison[3:4]",
		"0 answer poison bad 2")
}

func TestNamedRowsFailAtOnceAndTheOthersRunAgain(t *testing.T) {
	s := newScript(8, 1, 0)
	s.submit("first", 9, 1)
	s.submit("a", 1, 2)
	s.submit("b", 2, 3)
	s.submit("c", 3, 2)
	s.finish(verdict{})
	// rows 2 and 4 of the batch are rows 0 and 2 of b; 99 does not exist
	s.finish(verdict{err: errors.New("refused"), badRows: []int{4, 2, 99, -1, 2}, content: true})
	s.finish(verdict{})
	s.want(t, "0 run first", "0 run a+b+c", "0 answer first ok", "0 run a+c", "0 answer b bad 0 2", "0 answer a ok", "0 answer c ok")
}

// One bad row is named: its request fails after one run, not after a search.
func TestOneNamedRow(t *testing.T) {
	s := newScript(8, 1, 0)
	s.submit("a", 1, 8)
	s.finish(verdict{err: errors.New("refused"), badRows: []int{5}, content: true})
	s.want(t, "0 run a", "0 answer a bad 5")
}

// One bad row among 64 requests is found in about 2 * log2(64) runs.
func TestSearchIsLogarithmic(t *testing.T) {
	s := newScript(64, 1, 0)
	s.submit("first", 99, 1)
	var reqs []*request
	for i := range 64 {
		reqs = append(reqs, s.submit(fmt.Sprint(i), uint64(i), 1))
	}
	s.finish(verdict{})
	runs := 0
	for ; len(s.b.running) > 0; runs++ {
		if slices.ContainsFunc(s.b.running[0].pieces, func(p piece) bool { return p.req == reqs[41] }) {
			s.finish(contentFailure)
		} else {
			s.finish(verdict{})
		}
	}
	if runs != 1+2*6 {
		t.Errorf("%d runs", runs)
	}
	for i, r := range reqs {
		if (len(r.bad) > 0) != (i == 41) || !r.done {
			t.Errorf("request %d: bad %v", i, r.bad)
		}
	}
}

// If a backend names only rows that do not exist, its error counts as one without names.
func TestNonsenseRowsAreIgnored(t *testing.T) {
	s := newScript(8, 1, 0)
	s.submit("a", 1, 2)
	s.finish(verdict{err: errors.New("refused"), badRows: []int{7}, content: true})
	s.finish(verdict{})
	s.finish(verdict{})
	s.want(t, "0 run a", "0 run a[0:1]", "0 run a[1:2]", "0 answer a ok")
}

func TestFailureOfTheBatchIsThatOfEveryRequest(t *testing.T) {
	s := newScript(8, 1, 0)
	s.submit("first", 1, 1)
	s.submit("a", 1, 2)
	s.submit("b", 2, 2)
	s.finish(verdict{})
	s.finish(verdict{err: errors.New("out of memory")})
	s.want(t, "0 run first", "0 run a+b", "0 answer first ok", "0 answer a out of memory", "0 answer b out of memory")
}

// While the server looks for one caller's bad row, other callers get every second batch.
func TestSearchTakesTurnsWithOthers(t *testing.T) {
	s := newScript(4, 1, 0)
	s.submit("poison", 1, 4)
	s.submit("a", 2, 4)
	s.submit("b", 2, 4)
	s.finish(contentFailure)
	for len(s.b.running) > 0 {
		s.finish(verdict{})
	}
	s.want(t, "0 run poison", "0 run poison[0:2]", "0 run a", "0 run poison[2:4]", "0 answer a ok", "0 run b", "0 answer poison ok", "0 answer b ok")
}

// A model that fails every batch. Requests that are searched for bad rows are not in the queue any
// more, so their number must have a bound of its own.
func TestSearchIsBounded(t *testing.T) {
	const maxRows = 64
	b := newBatcher(maxRows, 1, 0, time.Minute)
	now := time.Unix(0, 0)
	queued, open, most := 0, 0, 0
	for range 20_000 {
		now = now.Add(time.Millisecond)
		// the callers keep two batches waiting
		for ; queued < 2*maxRows; queued, open = queued+1, open+1 {
			b.submit(now, &request{caller: 1, rows: 1})
		}
		if len(b.running) > 0 {
			b.finish(now, b.running[0], verdict{err: &failure{code: codes.Internal, message: "the device is lost"}, content: true})
		}
		e := b.step(now)
		queued -= len(e.left)
		open -= len(e.answers)
		most = max(most, open)
	}
	if most > 6*maxRows {
		t.Errorf("%d requests were held", most)
	}
}

func TestAbandoned(t *testing.T) {
	s := newScript(4, 1, 0)
	a := s.submit("a", 1, 2)
	b := s.submit("b", 1, 2)
	s.submit("c", 2, 1)
	gone := errors.New("gone")
	s.b.abandon(s.now, b, gone) // queued: never runs
	s.step()
	s.b.abandon(s.now, a, gone) // runs without a caller: cancelled
	s.step()
	s.finish(verdict{err: errors.New("cancelled")})
	s.finish(verdict{})
	s.want(t, "0 run a", "0 answer b gone", "0 cancel a", "0 answer a gone", "0 run c", "0 answer c ok")
	if len(s.b.groups) != 0 || s.b.oldest != nil || len(s.b.suspect) != 0 {
		t.Error("something is left")
	}
}

func TestLateAndTimedOutRequestsNeverRun(t *testing.T) {
	s := newScript(4, 1, 0)
	s.submit("a", 1, 1)
	late := &request{caller: 1, rows: 1, due: s.start.Add(5 * time.Millisecond)}
	s.names[late] = "late"
	s.b.submit(s.now, late)
	s.submit("b", 1, 1)
	s.at(5)
	s.finish(verdict{})
	s.submit("c", 1, 1)
	if at, ok := s.b.wake(s.now); !ok || at.Sub(s.start) != time.Minute+5*time.Millisecond {
		t.Errorf("wake at %v", at.Sub(s.start))
	}
	s.at(60_004)
	s.at(60_005)
	s.want(t, "0 run a", "5 run b", "5 answer a ok", "5 answer late "+errCallerLate.message, "60005 answer c "+errQueueTimeout.message)
}

// For any sequence of events: every request has exactly one answer, which is bad exactly in its bad
// rows; batches are never too large and never mix keys; at most as many batches run as there are
// instances; and nothing is left at the end.
func TestBatcherProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		maxRows := rapid.IntRange(1, 8).Draw(t, "maxRows")
		instances := rapid.IntRange(1, 3).Draw(t, "instances")
		b := newBatcher(maxRows, instances, time.Duration(rapid.IntRange(0, 5).Draw(t, "window")), time.Duration(1000))
		now := time.Unix(0, 0)
		poison := map[*request][]int{}
		answered := map[*request]bool{}
		left := map[*request]bool{}
		gone := map[*request]bool{}
		var all []*request
		var running []*batch

		step := func() {
			e := b.step(now)
			for _, x := range e.runs {
				rows := 0
				for _, p := range x.pieces {
					if p.req.key != x.pieces[0].req.key {
						t.Fatalf("a batch of keys %q and %q", p.req.key, x.pieces[0].req.key)
					}
					if p.from >= p.to || p.to > p.req.rows {
						t.Fatalf("a piece of rows %d to %d of %d", p.from, p.to, p.req.rows)
					}
					rows += p.to - p.from
				}
				if rows != x.rows || rows > maxRows || rows == 0 {
					t.Fatalf("a batch of %d rows, which says %d; the bound is %d", rows, x.rows, maxRows)
				}
				running = append(running, x)
			}
			if len(running) > instances {
				t.Fatalf("%d batches run on %d instances", len(running), instances)
			}
			for _, r := range e.left {
				if left[r] {
					t.Fatal("left the queue twice")
				}
				left[r] = true
			}
			for _, r := range e.answers {
				if answered[r] {
					t.Fatal("answered twice")
				}
				answered[r] = true
				if r.err != nil {
					if !gone[r] && r.err != error(errQueueTimeout) {
						t.Fatalf("failed: %v", r.err)
					}
					continue
				}
				var bad []int
				for _, x := range r.bad {
					bad = append(bad, x.row)
				}
				slices.Sort(bad)
				if !slices.Equal(bad, poison[r]) {
					t.Fatalf("bad rows %v, want %v", bad, poison[r])
				}
				if len(bad) == 0 {
					rows := 0
					for _, a := range r.answered {
						rows += a.to - a.from
					}
					if rows != r.rows {
						t.Fatalf("answers to %d of %d rows", rows, r.rows)
					}
				}
			}
			consistent(t, b)
			// If no batch runs, no row may wait.
			if len(running) == 0 && len(b.groups) > 0 {
				t.Fatal("idle, and rows wait")
			}
		}
		finish := func(i int, name bool) {
			x := running[i]
			running = slices.Delete(running, i, i+1)
			v := verdict{outputs: make([][]tensor.Tensor, len(x.pieces))}
			var bad []int
			at := 0
			for _, p := range x.pieces {
				for _, row := range poison[p.req] {
					if row >= p.from && row < p.to {
						bad = append(bad, at+row-p.from)
					}
				}
				at += p.to - p.from
			}
			if bad != nil {
				v = contentFailure
				if name {
					v.badRows = bad
				}
			}
			b.finish(now, x, v)
			step()
		}
		t.Repeat(map[string]func(*rapid.T){
			"submit": func(t *rapid.T) {
				r := &request{key: rapid.SampledFrom([]string{"", "k"}).Draw(t, "key"), caller: uint64(rapid.IntRange(1, 3).Draw(t, "caller")),
					rows: rapid.IntRange(1, 12).Draw(t, "rows")}
				for row := range r.rows {
					if rapid.IntRange(0, 9).Draw(t, "poison") == 0 {
						poison[r] = append(poison[r], row)
					}
				}
				all = append(all, r)
				b.submit(now, r)
				step()
			},
			"finish": func(t *rapid.T) {
				if len(running) == 0 {
					t.Skip("no batch runs, so none can finish; another event is drawn")
				}
				finish(rapid.IntRange(0, len(running)-1).Draw(t, "which"), rapid.Bool().Draw(t, "named"))
			},
			"abandon": func(t *rapid.T) {
				if len(all) == 0 {
					t.Skip("no request came yet; another event is drawn")
				}
				r := rapid.SampledFrom(all).Draw(t, "which")
				gone[r] = true
				b.abandon(now, r, errors.New("gone"))
				step()
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "passes")))
				step()
			},
		})
		for i := 0; len(running) > 0 || len(b.groups) > 0; i++ {
			if i > 100_000 {
				t.Fatal("the batcher does not come to an end")
			}
			if len(running) == 0 {
				at, ok := b.wake(now)
				if !ok {
					t.Fatal("rows wait, and nothing will wake them")
				}
				now = at
				step()
				continue
			}
			finish(0, false)
		}
		for _, r := range all {
			if !answered[r] || !left[r] {
				t.Fatal("a request has no answer, or never left the queue")
			}
		}
		if b.oldest != nil || b.newest != nil || len(b.suspect) > 0 || len(b.running) > 0 {
			t.Fatal("something is left")
		}
	})
}

func BenchmarkBatcher(b *testing.B) {
	m := newBatcher(64, 1, 0, time.Minute)
	now := time.Unix(0, 0)
	outputs := make([][]tensor.Tensor, 64)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.submit(now, &request{caller: uint64(i % 4), rows: 1})
		m.step(now)
		if i%64 == 63 {
			x := m.running[0]
			m.finish(now, x, verdict{outputs: outputs[:len(x.pieces)]})
			m.step(now)
		}
	}
}
