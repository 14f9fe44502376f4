package sidecar

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
)

// A transcript is lines of an event each, and below it, indented, what gather did. The events:
//
//	new rows=R window=W
//	call A..B           these calls come in one slice
//	encode N A=later .. request N is built; calls without a fate have a row
//	answer N            request N succeeded
//	halves N            request N failed; the cause is unknown
//	named N A B         request N failed; these calls are at fault
//	cancel A B ..
//	flush
//
// Requests that may be sent after an event are sent, and printed as request N with their calls.
// UPDATE=1 writes what gather does now into the files.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/gather/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(text))
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("got\n%s\nwant\n%s", got, text)
			}
		})
	}
}

type transcript struct {
	t    *testing.T
	g    gather[int]
	sent []*group[int]
	out  strings.Builder
}

func replay(t *testing.T, text string) string {
	tr := &transcript{t: t}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "  "):
		case line == "" || line[0] == '#':
			fmt.Fprintln(&tr.out, line)
		default:
			fmt.Fprintln(&tr.out, line)
			tr.event(strings.Fields(line))
		}
	}
	return tr.out.String()
}

func (tr *transcript) event(f []string) {
	num := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			tr.t.Fatalf("%q: %v", f, err)
		}
		return n
	}
	request := func() *group[int] { return tr.sent[num(f[1])] }
	switch f[0] {
	case "new":
		fmt.Sscanf(f[1]+" "+f[2], "rows=%d window=%d", &tr.g.rows, &tr.g.window)
	case "call":
		from, to, _ := strings.Cut(f[1], "..")
		var calls []async.Call[int]
		for i := num(from); i <= num(to); i++ {
			calls = append(calls, async.Call[int]{ID: id(i)})
		}
		tr.g.add(calls)
	case "encode":
		r := request()
		fates := make([]fate, len(r.calls))
		for _, s := range f[2:] {
			k, v, _ := strings.Cut(s, "=")
			at := slices.IndexFunc(r.calls, func(c async.Call[int]) bool { return c.ID == id(num(k)) })
			fates[at] = map[string]fate{"later": later, "gone": gone}[v]
		}
		tr.g.encoded(r, fates)
		n := num(f[1])
		r.abort = func() { fmt.Fprintf(&tr.out, "  abort %d\n", n) }
		fmt.Fprintf(&tr.out, "  rows %s\n", names(r.calls))
	case "answer":
		tr.g.answered(request())
	case "halves":
		tr.g.halves(request(), false)
		tr.g.answered(request())
	case "alone":
		tr.g.halves(request(), true)
		tr.g.answered(request())
	case "named":
		r := request()
		for _, s := range f[2:] {
			at := slices.IndexFunc(r.calls, func(c async.Call[int]) bool { return c.ID == id(num(s)) })
			r.fates[at] = gone
			r.live--
		}
		tr.g.again(r, 0, len(r.calls), false)
		tr.g.answered(r)
	case "cancel":
		var ids []async.CallID
		for _, s := range f[1:] {
			ids = append(ids, id(num(s)))
		}
		tr.g.cancel(ids)
	case "flush":
		var back []async.Call[int]
		for _, id := range tr.g.flush(nil) {
			back = append(back, async.Call[int]{ID: id})
		}
		fmt.Fprintf(&tr.out, "  back %s\n", names(back))
	default:
		tr.t.Fatalf("unknown event %q", f)
	}
	for {
		due := tr.g.due()
		r := tr.g.next()
		if (r != nil) != (due > 0) {
			tr.t.Fatalf("%d due, next %v", due, r)
		}
		if r == nil {
			return
		}
		what := "request"
		if r.part {
			what = "part"
		}
		fmt.Fprintf(&tr.out, "  %s %d: %s\n", what, len(tr.sent), names(r.calls))
		tr.sent = append(tr.sent, r)
	}
}

func id(i int) async.CallID { return async.CallID{Entry: uint64(i)} }

// names prints calls, runs of them as A..B.
func names(calls []async.Call[int]) string {
	var parts []string
	for i := 0; i < len(calls); {
		k := i
		for k+1 < len(calls) && calls[k+1].ID.Entry == calls[k].ID.Entry+1 {
			k++
		}
		s := strconv.Itoa(int(calls[i].ID.Entry))
		if k > i {
			s += ".." + strconv.Itoa(int(calls[k].ID.Entry))
		}
		parts = append(parts, s)
		i = k + 1
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, " ")
}

// Whatever happens, every call is answered, failed, cancelled or returned, exactly once. The bounds
// hold, and a request with bad rows costs at most 2n-2 further requests.
func TestGatherLosesNothing(t *testing.T) {
	for range 300 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d: "+format, append([]any{seed}, args...)...)
		}
		g := gather[int]{rows: 1 + rng.IntN(12), window: 1 + rng.IntN(4)}
		bad := map[int]bool{}
		outcome := map[int]int{}
		done := func(i int) { outcome[i]++ }
		calls, requests, splits := 0, 0, 0
		var flying []*group[int]
		finish := func(k int) {
			r := flying[k]
			flying = slices.Delete(flying, k, k+1)
			isBad := false
			var named []int
			for i := range r.calls {
				if bad[int(r.calls[i].ID.Entry)] {
					isBad = true
					named = append(named, i)
				}
			}
			switch {
			case !isBad || len(r.calls) == 1:
				for i, c := range r.calls {
					if r.fates[i] == wanted {
						done(int(c.ID.Entry))
					}
				}
			case rng.IntN(3) == 0:
				for _, i := range named {
					if r.fates[i] == wanted {
						r.fates[i], r.live = gone, r.live-1
						done(int(r.calls[i].ID.Entry))
					}
				}
				g.again(r, 0, len(r.calls), false)
			default:
				g.halves(r, r.alone || rng.IntN(2) == 0)
			}
			g.answered(r)
			g.recycle(r)
		}
		pump := func() {
			for r := g.next(); r != nil; r = g.next() {
				if requests++; r.part {
					splits++
				}
				fates := make([]fate, len(r.calls))
				for i := 1; i < len(fates); i++ {
					if rng.IntN(10) == 0 {
						fates[i] = later
					}
				}
				g.encoded(r, fates)
				if len(r.calls) == 0 || len(r.calls) > g.rows || r.live != len(r.calls) {
					fail("request of %d rows, %d live", len(r.calls), r.live)
				}
				flying = append(flying, r)
				if len(flying) > 1 && slices.ContainsFunc(flying, func(r *group[int]) bool { return r.alone }) {
					fail("%d requests in flight, one of which should be alone", len(flying))
				}
				if len(flying) > g.window || len(flying) != len(g.flight) {
					fail("%d requests in a window of %d", len(flying), g.window)
				}
			}
		}
		for range 60 {
			switch k := rng.IntN(10); {
			case k < 4:
				var batch []async.Call[int]
				for range 1 + rng.IntN(20) {
					bad[calls] = rng.IntN(15) == 0
					batch = append(batch, async.Call[int]{ID: id(calls)})
					calls++
				}
				g.add(batch)
			case k < 8 && len(flying) > 0:
				finish(rng.IntN(len(flying)))
			case k == 8 && calls > 0:
				var ids []async.CallID
				for range 1 + rng.IntN(5) {
					if i := rng.IntN(calls); outcome[i] == 0 {
						ids = append(ids, id(i))
						outcome[i] = 1
					}
				}
				g.cancel(ids)
			case k == 9 && rng.IntN(8) == 0:
				for _, id := range g.flush(nil) {
					done(int(id.Entry))
				}
			}
			pump()
		}
		for len(flying) > 0 {
			finish(rng.IntN(len(flying)))
			pump()
		}
		for i := range calls {
			if outcome[i] != 1 {
				fail("call %d of %d has %d outcomes", i, calls, outcome[i])
			}
		}
		if g.pending.len()+g.parts.len()+len(g.flight) > 0 {
			fail("something is left: %+v", g)
		}
	}
}

// One bad row among n is found with at most 2n-2 further requests, and far fewer.
func TestHalvesAreFew(t *testing.T) {
	for n := 2; n <= 64; n++ {
		for _, all := range []bool{false, true} {
			g := gather[int]{rows: n, window: 1}
			for i := range n {
				g.add([]async.Call[int]{{ID: id(i)}})
			}
			requests := -1
			for r := g.next(); r != nil; r = g.next() {
				requests++
				if len(r.calls) > 1 && (all || slices.ContainsFunc(r.calls, func(c async.Call[int]) bool { return c.ID == id(n/3) })) {
					g.halves(r, false)
				}
				g.answered(r)
				g.recycle(r)
			}
			most := 2*n - 2
			if !all {
				most = 2 * (strconv.IntSize - leadingZeros(n-1))
			}
			if requests > most {
				t.Errorf("n=%d all=%v: %d further requests, at most %d", n, all, requests, most)
			}
		}
	}
}

func leadingZeros(n int) int {
	z := strconv.IntSize
	for ; n > 0; n >>= 1 {
		z--
	}
	return z
}

func TestFifo(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	var q fifo[int]
	var want []int
	for step := range 20000 {
		vs := make([]int, rng.IntN(5))
		for i := range vs {
			vs[i] = step*10 + i
		}
		switch rng.IntN(6) {
		case 0, 1:
			q.push(vs...)
			want = append(want, vs...)
		case 2:
			q.pushFront(vs...)
			want = append(slices.Clone(vs), want...)
		case 3, 4:
			n := min(rng.IntN(8), q.len())
			q.drop(n)
			want = want[n:]
		case 5:
			keep := func(v *int) bool { return *v%7 != step%7 }
			q.filter(keep)
			want = slices.DeleteFunc(slices.Clone(want), func(v int) bool { return !keep(&v) })
		}
		if !slices.Equal(q.items(), want) {
			t.Fatalf("seed %d, step %d: %v, want %v", seed, step, q.items(), want)
		}
	}
}
