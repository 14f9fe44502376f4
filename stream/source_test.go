package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// endings is a source whose methods return given errors; its reader has two records of each split
// first.
type endings struct{ splits, verify, open, read, close error }

func (s endings) Splits(context.Context) ([]connector.Split, error) {
	return []connector.Split{{}, {}}, s.splits
}
func (s endings) Verify(context.Context, []connector.Split, []int64) error { return s.verify }
func (s endings) Open(context.Context, connector.Split, int64) (connector.Reader[int], error) {
	if s.open != nil {
		return nil, s.open
	}
	return &endingsReader{s: s}, nil
}

type endingsReader struct {
	s    endings
	read bool
}

func (r *endingsReader) Read(_ context.Context, dst []Record[int], _ int) ([]Record[int], int64, error) {
	if r.read {
		return dst, 2, r.s.read
	}
	r.read = true
	return append(dst, Record[int]{Value: 1}, Record[int]{Value: 2, Position: 1}), 2, nil
}

func (r *endingsReader) Close() error { return r.s.close }

// liveEndings is endings without an end.
type liveEndings struct{ endings }

func (s liveEndings) OpenAll(context.Context, []connector.AssignedSplit) (connector.UnboundedReader[int], error) {
	if s.open != nil {
		return nil, s.open
	}
	return &liveEndingsReader{endingsReader{s: s.endings}}, nil
}

type liveEndingsReader struct{ endingsReader }

func (r *liveEndingsReader) Read(ctx context.Context, dst []Record[int], max int) (int, []Record[int], int64, error) {
	dst, next, err := r.endingsReader.Read(ctx, dst, max)
	return 0, dst, next, err
}

// A split ends with io.EOF of its reader's Read. Any other EOF, or an error that wraps it, is a
// failure, and records may follow it.
func TestOnlyEOFIsAnEnd(t *testing.T) {
	wrapped := fmt.Errorf("the connection broke: %w", io.EOF)
	seq := func(err error) connector.Source[int] {
		return FromSeq(func(yield func(int, error) bool) {
			_ = yield(1, nil) && yield(2, nil) && err != nil && yield(0, err)
		}, false)
	}
	for name, tt := range map[string]struct {
		src  connector.Source[int]
		want string // of the error; empty: none, and 2 records of each split
		err  error
	}{
		"io.EOF":                     {endings{read: io.EOF}, "", nil},
		"wrapped":                    {endings{read: wrapped}, "cannot read split 0 from position 2: the connection broke: EOF", io.EOF},
		"joined":                     {endings{read: errors.Join(io.EOF, errors.New("late"))}, "cannot read split 0 from position 2", io.EOF},
		"unexpected":                 {endings{read: io.ErrUnexpectedEOF}, "cannot read split 0 from position 2: unexpected EOF", io.ErrUnexpectedEOF},
		"a record's own":             {endings{read: &async.RecordError{Operator: "o", Err: io.EOF}}, "cannot read split 0", io.EOF},
		"a panic":                    {endings{read: &async.PanicError{Value: io.EOF}}, "cannot read split 0", nil},
		"Open":                       {endings{open: io.EOF}, "cannot read split 0 from position 0: EOF", io.EOF},
		"Close":                      {endings{read: io.EOF, close: io.EOF}, "cannot read split 0 from position 2: EOF", io.EOF},
		"Splits":                     {endings{splits: io.EOF}, "cannot cut the input into splits: EOF", io.EOF},
		"wrapped, copied":            {Copying[int](endings{read: wrapped}, unchanged), "the connection broke", io.EOF},
		"live, io.EOF":               {liveEndings{endings{read: io.EOF}}, "splits of an unbounded source have no end: EOF", io.EOF},
		"live, wrapped":              {liveEndings{endings{read: wrapped}}, "the connection broke: EOF", io.EOF},
		"live, OpenAll":              {liveEndings{endings{open: io.EOF}}, "cannot read split 0 from position 0: EOF", io.EOF},
		"live, copied":               {Copying[int](liveEndings{endings{read: io.EOF}}, unchanged), "splits of an unbounded source have no end", io.EOF},
		"a sequence":                 {seq(nil), "", nil},
		"a sequence with io.EOF":     {seq(io.EOF), "the sequence yielded an error: EOF", io.EOF},
		"a sequence with it wrapped": {seq(wrapped), "the connection broke", io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := New("endings", Config{Checkpoint: CheckpointConfig{Interval: time.Second}, Restart: restart.Config{Strategy: restart.None}})
				out := Collect(From(j, tt.src))
				err := j.Run(t.Context())
				if tt.want != "" {
					if err == nil || !strings.Contains(err.Error(), tt.want) || tt.err != nil && !errors.Is(err, tt.err) {
						t.Errorf("%v; want %q", err, tt.want)
					}
					return
				}
				got := out.Results()
				if err != nil || len(got) == 0 || len(got)%2 != 0 || !slices.Equal(got[:2], []int{1, 2}) {
					t.Errorf("%v, %v", got, err)
				}
			})
		})
	}
}

// knowing is a source of 0..n-1 in one split that describes it by what was read of it. What it gets
// back must be the description of the position that it gets with it, or of one before it in the
// same batch.
type knowing struct {
	t     *testing.T
	n     int64
	batch int
	got   *[]string // descriptions that Verify was given
}

func (s knowing) Splits(context.Context) ([]connector.Split, error) {
	return []connector.Split{{Data: []byte("cut")}}, nil
}

func (s knowing) check(split connector.Split, at int64) {
	s.t.Helper()
	text := string(split.Data)
	*s.got = append(*s.got, text)
	if text == "cut" {
		text = "read 0"
	}
	read, err := strconv.ParseInt(strings.TrimPrefix(text, "read "), 10, 64)
	if err != nil || read > at || at >= read+int64(s.batch) && at > read {
		s.t.Errorf("the split is %q at position %d", split.Data, at)
	}
}

func (s knowing) Verify(_ context.Context, splits []connector.Split, next []int64) error {
	for i := range splits {
		s.check(splits[i], next[i])
	}
	return nil
}

func (s knowing) Open(_ context.Context, split connector.Split, at int64) (connector.Reader[int], error) {
	s.check(split, at)
	return &knowingReader{s, at}, nil
}

type knowingReader struct {
	s  knowing
	at int64
}

func (r *knowingReader) Read(_ context.Context, dst []Record[int], _ int) ([]Record[int], int64, error) {
	time.Sleep(time.Millisecond)
	for range r.s.batch {
		if r.at < r.s.n {
			dst = append(dst, Record[int]{Value: int(r.at), Position: r.at})
			r.at++
		}
	}
	if r.at == r.s.n {
		return dst, r.at, io.EOF
	}
	return dst, r.at, nil
}

func (r *knowingReader) Describe(dst []byte) []byte { return fmt.Appendf(dst, "read %d", r.at) }

func (r *knowingReader) Close() error { return nil }

// What a reader says of its split is in the checkpoint with the position that it belongs to, and
// comes back with it.
func TestDescriber(t *testing.T) {
	for _, copied := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const n = 2000
			s := knowing{t: t, n: n, batch: 7, got: new([]string)}
			src := func() connector.Source[int] {
				if copied {
					return Copying[int](s, unchanged)
				}
				return s
			}
			out := &Collected[int]{pending: map[int64][]Record[int]{}}
			store := NewMemoryStore()
			var resume *checkpoint.Snapshot
			described := map[string]bool{}
			for run := 0; ; run++ {
				j := New("knowing", Config{Resume: resume, Checkpoint: CheckpointConfig{Interval: 5 * time.Millisecond, Store: store}})
				slow := async.Func(func(_ context.Context, v int) (int, error) {
					time.Sleep(time.Duration(v%5) * time.Millisecond)
					return v, nil
				}, 3)
				To(OrderedWait(From(j, src()), slow, async.Config{Capacity: 5}), connector.Sink[int](out))
				r := j.Start(t.Context())
				select {
				case <-time.After(301 * time.Millisecond):
					r.Stop()
				case <-r.Done():
				}
				err := r.Wait()
				var serr error
				if resume, serr = store.Newest(t.Context()); serr != nil {
					t.Fatal(serr)
				}
				all, perr := resume.Positions("source")
				if perr != nil || len(all) != 1 {
					t.Fatal(all, perr)
				}
				described[string(all[0].Data)] = true
				if err == nil {
					if string(all[0].Data) != fmt.Sprintf("read %d", n) {
						t.Errorf("at the end the split is %q", all[0].Data)
					}
					break
				}
				if !errors.Is(err, ErrStopped) {
					t.Fatal(err)
				}
			}
			for i, v := range out.Results() {
				if v != i {
					t.Fatalf("result %d is %d", i, v)
				}
			}
			if len(described) < 3 || len(out.Results()) != n {
				t.Errorf("%d descriptions, %d results", len(described), len(out.Results()))
			}
		})
	}
}

// apartFrom is a source that is apart from everything but one thing.
type apartFrom struct {
	connector.Source[int]
	from any
	err  error
}

func (s apartFrom) CheckLoop(_ context.Context, own ...any) error {
	if slices.Contains(own, s.from) {
		return s.err
	}
	return nil
}

// A source is asked about the sinks of its job and the checkpoint store before anything is read.
func TestApartIsAsked(t *testing.T) {
	own := errors.New("its own")
	for name, wrap := range map[string]func(connector.Source[int]) connector.Source[int]{
		"itself": func(s connector.Source[int]) connector.Source[int] { return s },
		"copied": func(s connector.Source[int]) connector.Source[int] { return Copying(Copying(s, unchanged), unchanged) },
	} {
		sink, letters := &Collected[int]{pending: map[int64][]Record[int]{}}, &Collected[async.Failed[int]]{pending: map[int64][]Record[async.Failed[int]]{}}
		store := NewMemoryStore()
		for _, from := range []any{sink, letters, store, nil} {
			j := New("apart", Config{Checkpoint: CheckpointConfig{Store: store}})
			read := false
			src := FromSeq(func(yield func(int, error) bool) {
				read = true
				_ = yield(7, nil)
			}, false)
			good, bad := AsyncWithDeadLetters(From(j, wrap(apartFrom{src, from, own})), choosy(1), async.Config{
				Retry: async.Retry{Max: async.Off}, OnError: async.OnError{Backend: async.DeadLetter},
			})
			To(good, connector.Sink[int](sink))
			To(bad, connector.Sink[async.Failed[int]](letters))
			switch err := j.Run(t.Context()); {
			case from == nil && (err != nil || !read):
				t.Errorf("%s: %v", name, err)
			case from != nil && (!errors.Is(err, own) || !strings.Contains(err.Error(), "source: its own") || read):
				t.Errorf("%s, from %T: %v, read: %v", name, from, err, read)
			}
		}
	}
}

func unchanged(v int) int { return v }
