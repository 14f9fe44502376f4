package asyncq

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is the queue as a list that is searched from one end to the other.
type model struct {
	cfg     Config
	entries []*thing // not yet popped, in order of arrival
	// keyed: for each key, the latest completion among its entries that left this segment
	gone    map[uint64]int
	doneSeq int
	// stalled: something was refused, or calls were suspended, and nothing was taken since. from is
	// when that began.
	stalled, suspended bool
	from               Time
}

// heavy reports whether the entries take more than MaxBytes.
func (m *model) heavy() bool {
	bytes := int64(0)
	for _, th := range m.entries {
		bytes += th.bytes
	}
	return m.cfg.MaxBytes > 0 && bytes > m.cfg.MaxBytes
}

// refused and taken say what the other side did.
func (m *model) refused(now Time) {
	if !m.stalled {
		m.stalled, m.from = true, now
	}
}

func (m *model) taken(now Time) { m.stalled, m.from = m.suspended, now }

type thing struct {
	id         ID
	key        uint64
	bytes      int64
	mark, done bool
	doneAt     int // order of completion
	calling    bool
	attempt    uint32
	deadline   Time
	begun      bool
	grew       bool // by its results
	asked      bool // the queue asked for a decision
	came       Time
}

func (m *model) find(id ID) *thing {
	i := slices.IndexFunc(m.entries, func(t *thing) bool { return t.id == id })
	if i < 0 {
		return nil
	}
	return m.entries[i]
}

// pop returns what may leave next, by the words of A16 and A17.
func (m *model) pop() *thing {
	best := -1
	for i, t := range m.entries {
		if t.mark {
			if i == 0 {
				best = i
			}
			break
		}
		first := !slices.ContainsFunc(m.entries[:i], func(o *thing) bool { return o.key == t.key })
		if t.done && (m.cfg.Order != Keyed || first) && (best < 0 || m.leave(i) < m.leave(best)) {
			best = i
		}
		if m.cfg.Order == Ordered {
			break
		}
	}
	if best < 0 {
		return nil
	}
	t := m.entries[best]
	if t.mark {
		clear(m.gone)
	} else {
		m.gone[t.key] = max(m.gone[t.key], t.doneAt)
	}
	m.entries = slices.Delete(m.entries, best, best+1)
	return t
}

// leave returns when an entry could leave: when it was done and, if keyed, when all before it
// of its key were.
func (m *model) leave(i int) int {
	at := m.entries[i].doneAt
	if m.cfg.Order == Keyed {
		at = max(at, m.gone[m.entries[i].key])
	}
	return at
}

// first reports whether an entry could leave if it were done.
func (m *model) first(t *thing) bool {
	for _, o := range m.entries {
		switch {
		case o == t:
			return true
		case m.cfg.Order == Ordered, o.mark, m.cfg.Order == Keyed && o.key == t.key:
			return false
		}
	}
	return false
}

func (m *model) finish(t *thing) { t.done, t.doneAt, t.calling = true, m.doneSeq, false; m.doneSeq++ }

// sized counts the entries that have bytes.
func sized(all []*thing) (n int) {
	for _, t := range all {
		if t.bytes > 0 {
			n++
		}
	}
	return n
}

// run drives a queue and its model with random events and fails t where they differ.
func run(t *rapid.T) {
	cfg := Config{
		Capacity: rapid.IntRange(1, 9).Draw(t, "capacity"),
		Order:    Order(rapid.IntRange(0, 2).Draw(t, "order")),
		MaxBytes: int64(rapid.SampledFrom([]int{0, 5, 20}).Draw(t, "bytes")),
		Budget:   float64(rapid.IntRange(0, 3).Draw(t, "budget")), Refill: 0.5,
		Jitter: rapid.SampledFrom([]float64{0, 0.3}).Draw(t, "jitter"), Seed: 7,
		Timeout: Time(rapid.SampledFrom([]int{0, 7, 20}).Draw(t, "timeout")),
		Hold:    Time(rapid.IntRange(1, 30).Draw(t, "hold")),
		Retries: rapid.IntRange(0, 3).Draw(t, "retries"), RetryDelay: Time(rapid.IntRange(0, 9).Draw(t, "delay")),
		Multiplier: 2, HoldDelay: 2, MaxHoldDelay: 8,
	}
	cfg.MaxCalls = rapid.IntRange(1, cfg.Capacity).Draw(t, "calls")
	q, m, now := New(cfg), &model{cfg: cfg, gone: map[uint64]int{}}, Time(0)
	result := func(th *thing) {
		bytes := int64(rapid.IntRange(0, 8).Draw(t, "result"))
		th.bytes, th.grew = th.bytes+bytes, bytes > 0
		q.Finish(th.id, bytes)
	}
	settle := func() {
		inCall := 0
		for _, th := range m.entries {
			if th.calling {
				inCall++
			}
		}
		running, bytes := 0, int64(0)
		for i := 0; i < len(q.Effects); i++ {
			e := q.Effects[i]
			th := m.find(e.ID)
			switch e.Kind {
			case Call:
				if th.calling || th.done || th.asked || m.suspended || e.Attempt != th.attempt+1 {
					t.Fatalf("wrong call %+v of %+v", e, th)
				}
				if cfg.Timeout > 0 && e.Deadline <= now {
					t.Fatalf("a call at %d, after its deadline %d", now, e.Deadline)
				}
				if cfg.Timeout > 0 && !th.begun && e.Deadline != now+cfg.Timeout {
					t.Fatalf("first call at %d ends at %d", now, e.Deadline)
				}
				if inCall++; inCall > 1 && m.heavy() {
					t.Fatalf("a call beside others while results are too many: %+v", q.Stats())
				}
				if m.heavy() && !m.first(th) {
					t.Fatalf("results are too many, and a call whose own could not leave: %+v", th)
				}
				th.calling, th.begun, th.attempt, th.deadline = true, true, e.Attempt, e.Deadline
			case Cancel:
				if !th.calling || th.attempt != e.Attempt {
					t.Fatalf("cancelled what was not called: %+v", th)
				}
				th.calling = false
				inCall--
			case Timeout, HoldOver:
				if th.done || th.asked || th.calling || (e.Kind == Timeout && (cfg.Timeout == 0 || !th.begun)) {
					t.Fatalf("%v for %+v", e.Kind, th)
				}
				// No entry fails before its hold is over, counted from when nothing was taken any
				// more (A40).
				if e.Kind == HoldOver && (!m.stalled || q.Now() < max(m.from, th.came)+cfg.Hold) {
					t.Fatalf("at %d the hold of %+v is over, with %+v", q.Now(), th, m)
				}
				th.asked = true
				result(th)
				m.finish(th)
			case Emit, EmitMark:
				want := m.pop()
				if want == nil || want.id != e.ID || want.mark != (e.Kind == EmitMark) {
					t.Fatalf("popped %+v, want %+v", e, want)
				}
			}
		}
		q.Effects = q.Effects[:0]
		for _, th := range m.entries {
			if th.calling {
				running++
			}
			bytes += th.bytes
		}
		if s := q.Stats(); s.Limit < 1 || s.Limit > cfg.MaxCalls || s.Bytes != bytes || (m.heavy() && sized(m.entries) != 1 && !slices.ContainsFunc(m.entries, func(th *thing) bool { return th.grew })) {
			t.Fatalf("limit %d of %d, %d bytes of %d (model %d) in %d entries", s.Limit, cfg.MaxCalls, s.Bytes, cfg.MaxBytes, bytes, len(m.entries))
		}
		if s := q.Stats(); s.Live != len(m.entries) || s.Live > cfg.Capacity || s.Calling != running || running > cfg.MaxCalls {
			t.Fatalf("stats %+v with %d entries, %d calling, in %+v", s, len(m.entries), running, cfg)
		}
	}
	complete := func(th *thing, attempt uint32, out Outcome, after Time) {
		q.Tick(now - 1) // as the operator does: earlier timers fire first
		settle()
		verdict := q.Complete(now, th.id, attempt, out, after)
		if live := th.calling && th.attempt == attempt && m.find(th.id) == th; (verdict == Ignored) == live {
			t.Fatalf("%v of call %d to %+v was judged %v", out, attempt, th, verdict)
		}
		switch {
		case verdict == Ignored:
		case out == Unavailable || out == Overloaded:
			m.refused(now)
		case out == Unmade:
		default:
			m.taken(now)
		}
		switch verdict {
		case Ignored:
		case Waiting:
			th.calling = false
		default:
			result(th)
			m.finish(th)
		}
	}
	var all []*thing
	steps := rapid.IntRange(1, 120).Draw(t, "steps")
	for range steps {
		switch rapid.SampledFrom([]string{"admit", "admit", "mark", "start", "start", "complete", "complete", "complete", "tick", "pop", "suspend", "resume", "stray"}).Draw(t, "event") {
		case "admit":
			th := &thing{key: uint64(rapid.IntRange(0, 3).Draw(t, "key")), bytes: int64(rapid.IntRange(0, 8).Draw(t, "size")), came: now}
			if q.Room() > 0 && q.Fits(th.bytes) {
				th.id = q.Admit(now, th.bytes, th.key)
				m.entries, all = append(m.entries, th), append(all, th)
			}
		case "mark":
			if q.Room() > 0 {
				m.entries = append(m.entries, &thing{id: q.AdmitMark(now), mark: true})
			}
		case "start":
			q.Tick(now)
			settle()
			q.Start(now)
		case "complete":
			var in []*thing
			for _, th := range m.entries {
				if th.calling {
					in = append(in, th)
				}
			}
			if len(in) > 0 {
				th := rapid.SampledFrom(in).Draw(t, "which")
				out := Outcome(rapid.IntRange(0, 5).Draw(t, "outcome"))
				complete(th, th.attempt, out, Time(rapid.IntRange(0, 5).Draw(t, "after")))
			}
		case "stray":
			if len(all) > 0 {
				th := rapid.SampledFrom(all).Draw(t, "which")
				complete(th, uint32(rapid.IntRange(0, 3).Draw(t, "attempt")), Transient, 0)
			}
		case "tick":
			now += Time(rapid.IntRange(0, 12).Draw(t, "advance"))
			q.Tick(now)
		case "pop":
			q.Pop(rapid.IntRange(1, 4).Draw(t, "n"))
		case "suspend":
			m.suspended = true
			m.refused(now)
			q.Suspend(now)
		case "resume":
			m.suspended = false
			q.Resume(now)
		}
		settle()
	}
	// Whatever happened, everything leaves in the end (A30), and no timer is left.
	m.suspended = false
	q.Resume(now)
	for range 1000 {
		q.Tick(now)
		settle()
		q.Start(now)
		settle()
		for _, th := range slices.Clone(m.entries) {
			if th.calling {
				complete(th, th.attempt, Final, 0)
			}
		}
		q.Pop(100)
		settle()
		if q.Len() == 0 {
			break
		}
		if at, ok := q.Next(); ok {
			now = max(now, at)
		}
	}
	if _, timed := q.Next(); q.Len() != 0 || timed || len(m.entries) != 0 {
		t.Fatalf("left over: %s", fmt.Sprint(q.Stats()))
	}
}

// TestMain asks for more than rapid's hundred histories unless the command line says how many.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		if err := flag.Set("rapid.checks", "100000"); err != nil {
			panic(err)
		}
	}
	// rapid prints the seed of a failure, so files with it are not needed.
	if err := flag.Set("rapid.nofailfile", "true"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// TestQueueBehavesLikeItsModel plays random histories of up to 120 events.
func TestQueueBehavesLikeItsModel(t *testing.T) { rapid.Check(t, run) }

// FuzzQueue is the same test, driven by coverage.
func FuzzQueue(f *testing.F) { f.Fuzz(rapid.MakeFuzz(run)) }
