package flink

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink/internal/leaktest"
)

func TestMain(m *testing.M) {
	leaktest.Main(m, func() {
		pools.Range(func(_, p any) bool {
			p.(interface{ CloseUnused(time.Time) }).CloseUnused(time.Now().Add(time.Hour))
			return true
		})
	}, leaktest.LocalRunner)
}

// scripted is a function whose calls a test completes, or answer does.
type scripted struct {
	// answer, if set, is run on a goroutine for every call.
	answer func(s *scripted, c async.Call[int])
	// slow is how long Open takes; broken what it returns.
	slow   time.Duration
	broken error

	mu        sync.Mutex
	done      async.Completer[int]
	calls     map[int][]async.CallID // by the record's value
	running   map[async.CallID]bool
	most      int // calls at once
	cancelled map[async.CallID]time.Time
	opened    int
	closed    int
}

func (s *scripted) Open(_ context.Context, _ async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	time.Sleep(s.slow)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return nil, s.broken
	}
	s.opened++
	if s.calls == nil {
		s.calls, s.running, s.cancelled = map[int][]async.CallID{}, map[async.CallID]bool{}, map[async.CallID]time.Time{}
	}
	s.done = done
	return s, nil
}

func (s *scripted) Call(batch []async.Call[int]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range batch {
		s.calls[c.Record.Value] = append(s.calls[c.Record.Value], c.ID)
		s.running[c.ID] = true
		s.most = max(s.most, len(s.running))
		if s.answer != nil {
			go s.answer(s, c)
		}
	}
}

func (s *scripted) Cancel(ids []async.CallID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.cancelled[id] = time.Now()
		delete(s.running, id)
	}
}

func (s *scripted) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

// end completes the newest call of a record.
func (s *scripted) end(v int, err error) {
	s.mu.Lock()
	ids := s.calls[v]
	id := ids[len(ids)-1]
	delete(s.running, id)
	done := s.done
	s.mu.Unlock()
	done.Complete([]async.Completion[int]{{ID: id, Outputs: async.One(2 * v), Err: err}})
}

// count returns how many calls were made for a record.
func (s *scripted) count(v int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls[v])
}

func (s *scripted) closes() (opened, closed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened, s.closed
}

// flaky is a transient failure.
type flaky struct{}

func (flaky) Error() string          { return "flaky" }
func (flaky) Verdict() async.Verdict { return async.Verdict{Class: async.Backend, Retry: true} }

// hopeless is a permanent one.
type hopeless struct{}

func (hopeless) Error() string          { return "no such model" }
func (hopeless) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// host is a subtask of Beam: it hands records to bundles and takes what leaves.
type host struct {
	*testing.T
	b  bundle[int, int]
	fn async.Function[int, int]

	at      bool // Beam is in a call of ours, so results may leave
	out     []string
	letters []async.Failed[int]
	then    func() // at the next result
	next    int64
}

func newHost(t *testing.T, fn async.Function[int, int], c Config) *host {
	t.Helper()
	h := &host{T: t, fn: fn}
	c, err := c.resolve()
	if err != nil {
		t.Fatal(err)
	}
	// The key has the test's name and the host's address, so that tests share no lanes.
	key := struct{ Name string }{fmt.Sprintf("%s %p", t.Name(), h)}
	err = h.b.setup(key, c, func() (async.Function[int, int], error) { return h.fn, nil }, taker[int, int]{
		result: func(r *async.Record[int]) {
			if !h.at {
				t.Error("a result leaves while Beam is elsewhere")
			}
			h.out = append(h.out, fmt.Sprintf("%d@%d", r.Value, r.Time))
			if then := h.then; then != nil {
				h.then = nil
				then()
			}
		},
		failed: func(f *async.Failed[int]) {
			if !h.at {
				t.Error("a dead letter leaves while Beam is elsewhere")
			}
			h.letters = append(h.letters, *f)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// try hands one record over. Its event time is its value.
func (h *host) try(v int) error {
	h.at = true
	defer func() { h.at = false }()
	h.next++
	return h.b.process(h.Context(), &async.Record[int]{Value: v, Time: async.EventTime(v), Split: 3, Position: h.next - 1})
}

func (h *host) push(vs ...int) {
	h.Helper()
	for _, v := range vs {
		if err := h.try(v); err != nil {
			h.Fatalf("record %d: %v", v, err)
		}
	}
}

func (h *host) finish() error {
	h.at = true
	defer func() { h.at = false }()
	return h.b.finish(h.Context())
}

// want compares what has left.
func (h *host) want(out string) {
	h.Helper()
	if got := strings.Join(h.out, " "); got != out {
		h.Fatalf("got  %q\nwant %q", got, out)
	}
}

// wantFailure checks an error, and that its text says the same.
func (h *host) wantFailure(err error, class string, split int, position int64, message string) {
	h.Helper()
	f, ok := err.(*Failure)
	if !ok {
		h.Fatalf("the error is %T: %v", err, err)
	}
	for _, f := range []*Failure{f, FailureIn("java.lang.RuntimeException: " + err.Error() + "\n\tat a.b(C.java:1)")} {
		if f == nil || f.Operator != "infer" || f.Class != class || f.Split != split || f.Position != position || !strings.Contains(f.Message, message) {
			h.Errorf("the failure is %+v; want class %s, split %d, position %d and %q", f, class, split, position, message)
		}
	}
}

// over lets all lanes be closed.
func (h *host) over() {
	time.Sleep(2 * IdleLimit)
	synctest.Wait()
}

func upTo(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// doubled are the results of records, in their order.
func doubled(vs ...int) string {
	var s []string
	for _, v := range vs {
		s = append(s, fmt.Sprintf("%d@%d", 2*v, v))
	}
	return strings.Join(s, " ")
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

var quiet = slog.New(slog.DiscardHandler)
