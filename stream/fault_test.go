package stream

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// trap is a source, a sink and a serializer that panics at one place.
type trap struct {
	at string
	diskSink
}

func (p trap) spring(at string) {
	if p.at == at {
		panic("sprung")
	}
}

func (p trap) Splits(context.Context) ([]connector.Split, error) {
	p.spring("Splits of in")
	return []connector.Split{{Start: 0}}, nil
}
func (p trap) Verify(context.Context, []connector.Split, []int64) error {
	p.spring("Verify of in")
	return nil
}

type trapSource struct{ trap }

func (s trapSource) Open(context.Context, connector.Split, int64) (connector.Reader[int], error) {
	s.spring("Read of in (Open)")
	return trapReader{s.trap}, nil
}

type trapReader struct{ p trap }

func (r trapReader) Read(ctx context.Context, dst []Record[int], _ int) ([]Record[int], int64, error) {
	r.p.spring("Read of in")
	if r.p.at == "nothing" {
		return dst, 0, nil
	}
	return append(dst, Record[int]{Value: 1, Position: 5}), 6, nil
}

func (r trapReader) Close() error { return nil }

type trapSink struct{ trap }

func (s trapSink) Open(ctx context.Context, sub async.Subtask) (connector.Writer[int], error) {
	s.spring("out (subtask 0 of 1)")
	w, err := s.diskSink.Open(ctx, sub)
	return trapWriter{s.trap, w}, err
}

func (s trapSink) Committer(ctx context.Context) (connector.Committer, error) {
	s.spring("Committer of out")
	c, err := s.diskSink.Committer(ctx)
	return trapCommitter{s.trap, c}, err
}

type trapWriter struct {
	p trap
	connector.Writer[int]
}

func (w trapWriter) Write(recs []Record[int]) error {
	w.p.spring("Write of out")
	return w.Writer.Write(recs)
}

func (w trapWriter) Prepare(ctx context.Context, id int64) ([]connector.Pending, error) {
	w.p.spring("Prepare of out")
	return w.Writer.Prepare(ctx, id)
}

type trapCommitter struct {
	p trap
	connector.Committer
}

func (c trapCommitter) Begin(ctx context.Context, previous []byte) ([]byte, error) {
	c.p.spring("Begin of out")
	return c.Committer.Begin(ctx, previous)
}
func (c trapCommitter) Plan(state []byte, pending []connector.Pending) ([]byte, []byte, error) {
	c.p.spring("Plan of out")
	return c.Committer.Plan(state, pending)
}
func (c trapCommitter) Commit(ctx context.Context, plan []byte) error {
	c.p.spring("Commit of out")
	return c.Committer.Commit(ctx, plan)
}
func (c trapCommitter) Clean(ctx context.Context) error {
	c.p.spring("Clean of out")
	return c.Committer.Clean(ctx)
}

type trapSerializer struct {
	p trap
	Serializer[int]
}

func (s trapSerializer) Append(dst []byte, v int) ([]byte, error) {
	s.p.spring("the serializer's Append")
	return s.Serializer.Append(dst, v)
}

// TestPanics: a panic of any function that a user gives is an error of the job, with its place and
// its stack; the process and the other goroutines live.
func TestPanics(t *testing.T) {
	for _, at := range []string{
		"Splits of in", "Read of in", "Read of in (Open)", "out (subtask 0 of 1)", "Committer of out", "Write of out",
		"Prepare of out", "Begin of out", "Plan of out", "Commit of out", "Clean of out", "map", "keyby", "the serializer's Append",
	} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := trap{at, diskSink{newDisk()}}
				j := New("panics", Config{Checkpoint: CheckpointConfig{Interval: time.Second}, Restart: restart.Config{Strategy: restart.None}})
				m := Map(From(j, trapSource{p}, Name("in")), func(v int) (int, error) { p.spring("map"); return v, nil })
				k := KeyBy(m, func(int) string { p.spring("keyby"); return "k" })
				slow := async.Func(func(_ context.Context, v int) (int, error) { time.Sleep(10 * time.Millisecond); return v, nil }, 0)
				w := UnorderedWait(k, slow, async.Config{Capacity: 5}, WithSerializer[int](trapSerializer{p, testSerializer}))
				To(w, trapSink{p}, Name("out"))
				err := j.Run(t.Context())
				e, ok := errors.AsType[*async.PanicError](err)
				if !ok || e.Where != strings.TrimSuffix(at, " (Open)") || e.Value != "sprung" || !strings.Contains(string(e.Stack), "spring") {
					t.Fatalf("the job ended with %v", err)
				}
				switch r, ok := errors.AsType[*async.RecordError](err); at {
				case "map", "keyby", "the serializer's Append":
					if !ok || r.Split != 0 || r.Position != 5 {
						t.Errorf("the record is not named: %v", err)
					}
				}
				if r, ok := errors.AsType[*ReadError](err); strings.HasPrefix(at, "Read") && (!ok || r.Operator != "in") {
					t.Errorf("the place is not named: %v", err)
				}
			})
		})
	}
}

// TestReaderThatReturnsNothing: the job fails. Otherwise it would spin.
func TestReaderThatReturnsNothing(t *testing.T) {
	j := New("nothing", Config{})
	Collect(From(j, connector.Source[int](trapSource{trap{at: "nothing"}})))
	if err := j.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "the reader returned no records, no io.EOF and no error") {
		t.Errorf("the job ended with %v", err)
	}
}

// TestFromSeq: a sequence is read once. It can start again only if it is replayable.
func TestFromSeq(t *testing.T) {
	seq := func(yield func(int, error) bool) {
		for i := range 200 {
			if !yield(i, nil) {
				return
			}
		}
	}
	for _, replayable := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := &flaky{left: map[int]int{150: 1}}
			j := New("seq", Config{Parallelism: 2, Checkpoint: CheckpointConfig{Interval: 10 * time.Millisecond}})
			out := Collect(OrderedWait(From(j, FromSeq(iter.Seq2[int, error](seq), replayable)), async.Func(f.call, 4), async.Config{Capacity: 8}))
			err := j.Run(t.Context())
			if replayable && (err != nil || !isDoubled(out.Results(), 200)) {
				t.Errorf("replayable: %v, %d results", err, len(out.Results()))
			}
			if !replayable && (err == nil || !strings.Contains(err.Error(), "cannot restart: source cannot be read again: the sequence is not replayable (see stream.FromSeq) (the failure was: ")) {
				t.Errorf("not replayable: %v", err)
			}
		})
	}
	j := New("seq", Config{})
	out := Collect(From(j, FromSeq(func(yield func(int, error) bool) { _ = yield(1, nil) && yield(0, errBroken) }, true)))
	err := j.Run(t.Context())
	if e, ok := errors.AsType[*ReadError](err); !ok || e.Position != 1 || !errors.Is(err, errBroken) || len(out.Results()) != 0 {
		t.Errorf("a failing sequence: %v, %v", err, out.Results())
	}
}

// TestCollectedElsewhere: results in the memory of another process are gone, and the error says so.
func TestCollectedElsewhere(t *testing.T) {
	store := NewMemoryStore()
	job := func(cfg Config) *Job {
		cfg.Checkpoint.Store = store
		j := New("collect", cfg)
		Collect(From(j, FromSlice(numbers(10))))
		return j
	}
	if err := job(Config{}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	snap, err := store.Newest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := job(Config{Resume: snap}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "gone with its memory") {
		t.Errorf("the resumed job ended with %v", err)
	}
}

// TestReplacesAFinishedRun: the sinks of a new run are given what the finished one left.
func TestReplacesAFinishedRun(t *testing.T) {
	c := &previousCheck{diskSink: diskSink{newDisk()}}
	job := func(cfg Config) error {
		cfg.Checkpoint.Store = c.disk
		j := New("again", cfg)
		To(From(j, FromSlice(numbers(10))), connector.Sink[int](c), Name("out"))
		return j.Run(t.Context())
	}
	if err := job(Config{RunID: "one"}); err != nil {
		t.Fatal(err)
	}
	snap, err := c.Newest(t.Context())
	if err != nil || snap.Run != "one" {
		t.Fatal(snap, err)
	}
	clear(c.final)
	if err := job(Config{RunID: "two", Previous: snap, LastID: snap.ID}); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(c.previous) != `[ {"0":1}]` || !slices.Equal(c.values(), numbers(10)) {
		t.Errorf("Begin was given %q, output %v", c.previous, c.values())
	}
}

type previousCheck struct {
	diskSink
	previous []string
}

func (c *previousCheck) Committer(ctx context.Context) (connector.Committer, error) {
	k, err := c.diskSink.Committer(ctx)
	return beginCheck{k, c}, err
}

type beginCheck struct {
	connector.Committer
	c *previousCheck
}

func (k beginCheck) Begin(ctx context.Context, previous []byte) ([]byte, error) {
	k.c.previous = append(k.c.previous, string(previous))
	return k.Committer.Begin(ctx, previous)
}

// TestStoreErrors: a checkpoint that can't be written fails; so many are tolerated, and then the
// job restarts.
func TestStoreErrors(t *testing.T) {
	for tolerable, restarts := range []int{2, 1, 0} {
		synctest.Test(t, func(t *testing.T) {
			d := newDisk()
			left := 2
			d.fault = func(at string) error {
				if at == "write" && left > 0 {
					left--
					return errors.New("not done: the disk is full")
				}
				return nil
			}
			j := New("store", Config{Checkpoint: CheckpointConfig{Interval: 50 * time.Millisecond, TolerableFailures: tolerable, Store: d}})
			To(OrderedWait(From(j, FromSlice(numbers(500))), shuffled(1), async.Config{Capacity: 20}), diskSink{d})
			r := j.Start(t.Context())
			err := r.Wait()
			if p := r.Progress(); err != nil || p.Restarts != restarts || p.CheckpointsFailed != 2 || p.LastError == nil || !isDoubled(d.values(), 500) {
				t.Errorf("%d tolerated: %v, %+v, %d results", tolerable, err, p, len(d.values()))
			}
		})
	}
}

var ringsSerializer, _ = serializerFor[map[string][]*ringed](nil)

// FuzzEntries: no bytes make the decoders panic or take memory beyond their size, and what was
// written comes back.
func FuzzEntries(f *testing.F) {
	var scratch []byte
	good, err := appendEntry(nil, 3, &Record[int]{Value: 42, Time: -5, Key: "k", Position: 1 << 40}, testSerializer, &scratch)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(appendMarks(nil, []async.QueuedWatermark{{Before: 2, Mark: async.Watermark{Time: 9, Idle: true}}}))
	f.Add(checkpoint.SplitPosition{Data: []byte("x"), Start: 3, Next: 5, Done: true}.Append(nil))
	ring := &ringed{Name: "a"}
	ring.Next = ring
	if good, err = ringsSerializer.Append(nil, map[string][]*ringed{"a": {nil, ring, ring, {}}, "b": nil}); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, data []byte) {
		if all, err := decodeEntries(data, 1, testSerializer); err == nil {
			var again []byte
			for _, e := range all {
				if again, err = appendEntry(again, e.seq, &e.rec, testSerializer, &scratch); err != nil {
					t.Fatal(err)
				}
			}
			back, err := decodeEntries(again, 1, testSerializer)
			if err != nil || !slices.Equal(all, back) {
				t.Fatalf("%v came back as %v, %v", all, back, err)
			}
		}
		if v, err := ringsSerializer.Decode(data); err == nil {
			if _, err := ringsSerializer.Append(nil, v); err != nil {
				t.Fatal(err)
			}
		}
		if marks, err := decodeMarks(data); err == nil {
			if back, err := decodeMarks(appendMarks(nil, marks)); err != nil || !slices.Equal(marks, back) {
				t.Fatalf("%v came back as %v, %v", marks, back, err)
			}
		}
		if s, err := checkpoint.DecodeSplit(data); err == nil {
			if back, err := checkpoint.DecodeSplit(s.Append(nil)); err != nil || fmt.Sprint(back) != fmt.Sprint(s) {
				t.Fatalf("%v came back as %v, %v", s, back, err)
			}
		}
	})
}
