package flink

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"

	"github.com/tensorferry/tensorferry/async"
)

// question and answer are a user's types.
type question struct {
	ID   int64
	Text string
}

type answer struct {
	ID     int64
	Length int32
	Tags   []string
}

// measure is a user's maker.
type measure struct {
	Workers int
	// Refuse makes records with this text fail.
	Refuse string
}

func (m measure) Function() (async.Function[question, answer], error) {
	return async.Func(func(_ context.Context, q question) (answer, error) {
		if q.Text == m.Refuse {
			return answer{}, fmt.Errorf("%q is\nnot to be measured", q.Text)
		}
		return answer{ID: q.ID, Length: int32(len(q.Text)), Tags: []string{q.Text}}, nil
	}, m.Workers), nil
}

// questionsFn emits N questions, whose event times are their IDs in seconds.
type questionsFn struct{ N int }

func (f *questionsFn) ProcessElement(_ []byte, emit func(beam.EventTime, question)) {
	for i := range f.N {
		emit(mtime.FromTime(time.Unix(int64(i), 0)), question{int64(i), strings.Repeat("x", i%100)})
	}
}

// keepFn keeps the elements of a collection for a test, in the order in which they come.
type keepFn[T any] struct{ Where string }

type kept struct {
	at    time.Time
	value any
}

var (
	keptMu  sync.Mutex
	keptAll = map[string][]kept{}
)

func (f *keepFn[T]) ProcessElement(at beam.EventTime, v T) {
	keptMu.Lock()
	defer keptMu.Unlock()
	keptAll[f.Where] = append(keptAll[f.Where], kept{at.ToTime(), v})
}

func keep[T any](s beam.Scope, t *testing.T, where string, c beam.PCollection) {
	t.Cleanup(func() {
		keptMu.Lock()
		defer keptMu.Unlock()
		delete(keptAll, t.Name()+" "+where)
	})
	beam.ParDo0(s, &keepFn[T]{t.Name() + " " + where}, c)
}

func keptOf(t *testing.T, where string) []kept {
	keptMu.Lock()
	defer keptMu.Unlock()
	return keptAll[t.Name()+" "+where]
}

func init() {
	Register[question, answer, measure]()
	register.DoFn2x0[[]byte, func(beam.EventTime, question)](&questionsFn{})
	register.Emitter2[beam.EventTime, question]()
	register.DoFn2x0[beam.EventTime, answer](&keepFn[answer]{})
	register.DoFn2x0[beam.EventTime, Failed[question]](&keepFn[Failed[question]]{})
}

// run runs a pipeline on Beam's local runner.
func run(t *testing.T, p *beam.Pipeline) error {
	t.Helper()
	_, err := beam.Run(t.Context(), "prism", p)
	return err
}

func TestInfer(t *testing.T) {
	const n = 3000
	p, s := beam.NewPipelineWithRoot()
	questions := beam.ParDo(s, &questionsFn{n}, beam.Impulse(s))
	answers, failed := Infer[question, answer](s, questions, measure{Workers: 8, Refuse: strings.Repeat("x", 50)}, Config{
		Name:  "measure",
		Async: async.Config{Capacity: 64, OnError: async.OnError{Backend: async.DeadLetter}},
	})
	keep[answer](s, t, "answers", answers)
	keep[Failed[question]](s, t, "failed", failed)
	if err := run(t, p); err != nil {
		t.Fatal(err)
	}
	got, letters := keptOf(t, "answers"), keptOf(t, "failed")
	if len(got)+len(letters) != n || len(letters) != n/100 {
		t.Fatalf("%d answers and %d dead letters of %d questions", len(got), len(letters), n)
	}
	for i := range n {
		if i%100 == 50 {
			k := letters[0]
			letters = letters[1:]
			f := k.value.(Failed[question])
			if f.Record.ID != int64(i) || f.Class != "backend" || f.Attempts != 1 || !strings.Contains(f.Error, "not to be measured") ||
				time.UnixMilli(f.At).Before(time.Unix(1e9, 0)) || k.at.Unix() != int64(i) {
				t.Fatalf("dead letter of %d: %+v", i, k)
			}
			continue
		}
		k := got[0]
		got = got[1:]
		a := k.value.(answer)
		if a.ID != int64(i) || a.Length != int32(i%100) || len(a.Tags) != 1 || a.Tags[0] != strings.Repeat("x", i%100) || k.at.Unix() != int64(i) {
			t.Fatalf("answer %d: %+v", i, k)
		}
	}
}

func TestInferUnordered(t *testing.T) {
	p, s := beam.NewPipelineWithRoot()
	answers, _ := Infer[question, answer](s, beam.ParDo(s, &questionsFn{500}, beam.Impulse(s)), measure{Refuse: "?"}, Config{Async: async.Config{Order: async.Unordered}})
	keep[answer](s, t, "answers", answers)
	if err := run(t, p); err != nil {
		t.Fatal(err)
	}
	seen := map[int64]bool{}
	for _, k := range keptOf(t, "answers") {
		a := k.value.(answer)
		if seen[a.ID] || k.at.Unix() != a.ID || a.Length != int32(a.ID%100) {
			t.Fatalf("%+v", k)
		}
		seen[a.ID] = true
	}
	if len(seen) != 500 {
		t.Errorf("%d answers", len(seen))
	}
}

func TestFailureOfAPipeline(t *testing.T) {
	p, s := beam.NewPipelineWithRoot()
	Infer[question, answer](s, beam.ParDo(s, &questionsFn{20}, beam.Impulse(s)), measure{Workers: 1, Refuse: "xxxxx"}, Config{Name: "measure"})
	err := run(t, p)
	if err == nil {
		t.Fatal("a record failed, and the pipeline did not")
	}
	f := FailureIn(err.Error())
	if f == nil {
		t.Fatalf("no Failure in %v", err)
	}
	if f.Operator != "measure" || f.Class != "backend" || f.Split != 0 || f.Position != 5 || !strings.Contains(f.Message, "\"xxxxx\" is\nnot to be measured") {
		t.Errorf("%+v", f)
	}
}

func TestMakerThatFails(t *testing.T) {
	p, s := beam.NewPipelineWithRoot()
	_, _, err := TryInfer[question, answer](s, beam.ParDo(s, &questionsFn{20}, beam.Impulse(s)), brokenMaker{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err = run(t, p); err == nil {
		t.Fatal("the pipeline did not fail")
	}
	if f := FailureIn(err.Error()); f == nil || f.Message != "no such file" || f.Position != -1 {
		t.Errorf("%+v in %v", f, err)
	}
}

type brokenMaker struct{}

func (brokenMaker) Function() (async.Function[question, answer], error) {
	return nil, errors.New("no such file")
}

func init() { Register[question, answer, brokenMaker]() }

// clock is a user's maker whose answers have the event times of their questions.
type clock struct{}

func (clock) Function() (async.Function[question, answer], error) { return clock{}, nil }

func (clock) Open(_ context.Context, _ async.Subtask, done async.Completer[answer]) (async.Caller[question, answer], error) {
	return clockCaller{done}, nil
}

type clockCaller struct{ done async.Completer[answer] }

func (c clockCaller) Call(batch []async.Call[question]) {
	for _, call := range batch {
		c.done.Complete([]async.Completion[answer]{{ID: call.ID, Outputs: async.One(answer{ID: int64(call.Record.Time)})}})
	}
}

func (clockCaller) Cancel([]async.CallID) {}
func (clockCaller) Close() error          { return nil }

func init() { Register[question, answer, clock]() }

// A record without an event time has none for the function either, and its result has none.
func TestNoEventTime(t *testing.T) {
	p, s := beam.NewPipelineWithRoot()
	answers, _ := Infer[question, answer](s, beam.Create(s, question{ID: 1}), clock{}, Config{})
	keep[answer](s, t, "answers", answers)
	if err := run(t, p); err != nil {
		t.Fatal(err)
	}
	got := keptOf(t, "answers")
	if len(got) != 1 || got[0].value.(answer).ID != int64(async.NoTime) || !got[0].at.Equal(mtime.MinTimestamp.ToTime()) {
		t.Errorf("there are %+v", got)
	}
}

// Makers that lose something, or are not registered.
type (
	nothing    struct{}
	withHidden struct {
		nothing
		secret string
	}
	withTag struct {
		nothing
		Secret string `json:"-"`
	}
	withFunc struct {
		nothing
		F func()
	}
	withAny struct {
		nothing
		V any
	}
	withError struct {
		nothing
		Err error
	}
	withFloat struct {
		nothing
		F float64
	}
	withNested struct {
		nothing
		In []map[string]*withHidden
	}
	withTime struct {
		nothing
		At time.Time
		M  measure
	}
	withOption struct {
		nothing
		TLS *struct{ CA string }
	}
	unregistered struct{ nothing }
)

func (nothing) Function() (async.Function[question, answer], error) { return measure{}.Function() }

func TestTryInferRefuses(t *testing.T) {
	_, s := beam.NewPipelineWithRoot()
	questions := beam.ParDo(s, &questionsFn{1}, beam.Impulse(s))
	with := func(c Config) func() error {
		return func() error { _, _, err := TryInfer[question, answer](s, questions, measure{}, c); return err }
	}
	for name, c := range map[string]struct {
		try  func() error
		want []string
	}{
		"windows": {func() error {
			w := beam.WindowInto(s, window.NewFixedWindows(time.Minute), questions)
			_, _, err := TryInfer[question, answer](s, w, measure{}, Config{Name: "measure"})
			return err
		}, []string{"flink: measure: the collection is in FIX", "call Infer first and window its results", "beam.WindowInto(s, window.NewGlobalWindows(), ...)"}},
		"no collection": {func() error {
			_, _, err := TryInfer[question, answer](s, beam.PCollection{}, measure{}, Config{})
			return err
		}, []string{"flink: infer: the collection is not valid"}},
		"not registered": {func() error {
			_, _, err := TryInfer[question, answer](s, questions, unregistered{}, Config{})
			return err
		}, []string{"add func init() { flink.Register[flink.question, flink.answer, flink.unregistered]() }"}},
		"another type": {func() error {
			_, _, err := TryInfer[question, answer](s, beam.Create(s, 1), measure{}, Config{})
			return err
		}, []string{"flink: infer: ", "int"}},
		"keyed":       {with(Config{Async: async.Config{Order: async.Keyed}}), []string{"the order is keyed; on Flink want ordered or unordered"}},
		"snapshot":    {with(Config{Async: async.Config{Barrier: async.Snapshot}}), []string{"want the drain policy, without a limit"}},
		"drain limit": {with(Config{Async: async.Config{DrainLimit: time.Second}}), []string{"want the drain policy, without a limit"}},
		"capacity":    {with(Config{Async: async.Config{Capacity: -1}}), []string{"flink: infer: ", "capacity"}},
		"jitter":      {with(Config{Async: async.Config{Retry: async.Retry{Jitter: math.NaN()}}}), []string{"flink: infer: ", "jitter"}},
		"multiplier":  {with(Config{Async: async.Config{Retry: async.Retry{Multiplier: math.NaN()}}}), []string{"flink: infer: ", "multiplier"}},
		"no timeout":  {with(Config{Async: async.Config{Timeout: async.Off}}), []string{"flink: infer: "}},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.try()
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("the error is %v; want %q in it", err, want)
				}
			}
		})
	}
}

func TestInferPanics(t *testing.T) {
	defer func() {
		if err, ok := recover().(error); !ok || !strings.Contains(err.Error(), "the collection is not valid") {
			t.Errorf("it panics with %v", err)
		}
	}()
	_, s := beam.NewPipelineWithRoot()
	Infer[question, answer](s, beam.PCollection{}, measure{}, Config{})
}

func lost[M any](m M) error {
	_, err := travels(m)
	return err
}

func TestTravels(t *testing.T) {
	if _, err := travels(withTime{At: time.Now(), M: measure{Workers: 1}}); err != nil {
		t.Error(err)
	}
	if _, err := travels(&withTime{}); err != nil {
		t.Error(err)
	}
	if _, err := travels(withOption{}); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"unexported": {lost(withHidden{secret: "x"}), "secret is not part of the JSON"},
		"pointer":    {lost(&withHidden{secret: "x"}), "secret is not part of the JSON"},
		"no maker":   {lost[*withHidden](nil), "*flink.withHidden is nil; want a maker"},
		"nobody's":   {lost[Maker[question, answer]](nil), "is nil; want a maker"},
		"tag":        {lost(withTag{Secret: "x"}), "Secret is not part of the JSON"},
		"function":   {lost(withFunc{F: func() {}}), "cannot be written as JSON"},
		"any":        {lost(withAny{V: 1}), "V is an interface"},
		"interface":  {lost(withError{Err: errors.New("x")}), "cannot be read from its own JSON"},
		"NaN":        {lost(withFloat{F: math.NaN()}), "cannot be written as JSON"},
		"infinity":   {lost(withFloat{F: math.Inf(1)}), "cannot be written as JSON"},
		"nested":     {lost(withNested{In: []map[string]*withHidden{{"a": {}}, {"b": {secret: "x"}}}}), "In.secret is not part of the JSON"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) || !strings.HasPrefix(c.err.Error(), "flink: ") {
			t.Errorf("%s: %v; want %q in it", name, c.err, c.want)
		}
	}
}
