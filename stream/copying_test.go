package stream

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

// reusing is a source of 1..n that gives one and the same object for every record.
type reusing struct{ n int64 }

func (reusing) Splits(context.Context) ([]connector.Split, error)        { return []connector.Split{{}}, nil }
func (reusing) Verify(context.Context, []connector.Split, []int64) error { return nil }
func (s reusing) Open(_ context.Context, _ connector.Split, at int64) (connector.Reader[*int], error) {
	return &reusingReader{n: s.n, at: at}, nil
}

type reusingReader struct {
	n, at int64
	one   int
}

func (r *reusingReader) Read(_ context.Context, dst []Record[*int], max int) ([]Record[*int], int64, error) {
	for ; max > 0 && r.at < r.n; max-- {
		r.one = int(r.at + 1)
		dst = append(dst, Record[*int]{Value: &r.one, Position: r.at})
		r.at++
	}
	if r.at == r.n {
		return dst, r.at, io.EOF
	}
	return dst, r.at, nil
}

func (r *reusingReader) Close() error { return nil }

// TestRow13: a source that reuses one object, through the copying helper, gives 2 4 6 8;
// without the helper it does not, so the helper is what does it (A6).
func TestRow13(t *testing.T) {
	results := func(src connector.Source[*int]) (got []int) {
		synctest.Test(t, func(t *testing.T) {
			slow := async.Func(func(_ context.Context, v *int) (int, error) {
				time.Sleep(time.Second) // the source has read on meanwhile
				return 2 * *v, nil
			}, 4)
			j := New("reused", Config{})
			out := Collect(OrderedWait(From(j, src), slow, async.Config{}))
			if err := j.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			got = out.Results()
		})
		return got
	}
	copied := Copying(connector.Source[*int](reusing{4}), func(v *int) *int { w := *v; return &w })
	if got := results(copied); !slices.Equal(got, []int{2, 4, 6, 8}) {
		t.Errorf("copied: %v", got)
	}
	if got := results(reusing{4}); !slices.Equal(got, []int{8, 8, 8, 8}) {
		t.Errorf("not copied: %v; the source does not reuse its object, so nothing was tested", got)
	}
}

// TestCopyingRefuses what cannot work, with an error, and passes the source's own failure on.
func TestCopyingRefuses(t *testing.T) {
	for want, src := range map[string]connector.Source[int]{
		"the source is nil":                 Copying[int](nil, func(v int) int { return v }),
		"the function that copies is nil":   Copying(FromSlice([]int{1}), nil),
		"Read of source: no copy":           Copying(FromSlice([]int{1}), func(int) int { panic("no copy") }),
		"neither a reader nor an error":     Copying(connector.Source[int](readerless{}), func(v int) int { return v }),
		"cannot read split 0 from position": Copying(FromSeq(func(yield func(int, error) bool) { yield(0, errBroken) }, true), func(v int) int { return v }),
	} {
		j := New("copying", Config{})
		Collect(From(j, src))
		if err := j.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the job ended with %v; want %q", err, want)
		}
	}
}

// readerless opens no reader.
type readerless struct{ reusing }

func (readerless) Open(context.Context, connector.Split, int64) (connector.Reader[int], error) {
	return nil, nil
}

// reusingLog is a live source of two splits, 1 2 3 ... each, that gives one object for every
// record. It is read a record a second.
type reusingLog struct{}

func (reusingLog) Splits(context.Context) ([]connector.Split, error) {
	return []connector.Split{{}, {}}, nil
}
func (reusingLog) Verify(context.Context, []connector.Split, []int64) error { return nil }
func (reusingLog) Open(context.Context, connector.Split, int64) (connector.Reader[*int], error) {
	return nil, errors.New("Open of an unbounded source is not called")
}

func (reusingLog) OpenAll(_ context.Context, splits []connector.AssignedSplit) (connector.UnboundedReader[*int], error) {
	return &reusingLogReader{splits: splits}, nil
}

type reusingLogReader struct {
	splits []connector.AssignedSplit
	one    int
}

func (r *reusingLogReader) Read(ctx context.Context, dst []Record[*int], max int) (int, []Record[*int], int64, error) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return 0, dst, 0, ctx.Err()
	}
	r.splits = append(r.splits[1:], r.splits[0]) // each in its turn
	s := &r.splits[len(r.splits)-1]
	for range max {
		r.one = int(s.Position + 1)
		dst = append(dst, Record[*int]{Value: &r.one, Position: s.Position})
		s.Position++
	}
	return s.Index, dst, s.Position, nil
}

func (r *reusingLogReader) Close() error { return nil }

// shiftingLog is one whose splits may change, reusingRebalancing one that is bounded.
type (
	shiftingLog struct {
		reusingLog
		connector.Rebalancing
	}
	reusingRebalancing struct {
		reusing
		connector.Rebalancing
	}
)

// TestCopyingKeepsTheKind: the wrapper is unbounded or rebalancing exactly if its source is.
func TestCopyingKeepsTheKind(t *testing.T) {
	same := func(v *int) *int { w := *v; return &w }
	for _, src := range []connector.Source[*int]{reusing{4}, reusingLog{}, shiftingLog{reusingLog{}, &shifty{}}, reusingRebalancing{reusing{4}, &shifty{}}} {
		_, live := src.(connector.Unbounded[*int])
		_, rebalancing := src.(connector.Rebalancing)
		copied := Copying(src, same)
		_, copiedLive := copied.(connector.Unbounded[*int])
		_, copiedRebalancing := copied.(connector.Rebalancing)
		if copiedLive != live || copiedRebalancing != rebalancing {
			t.Errorf("%T: live %v, rebalancing %v; copied: %v, %v", src, live, rebalancing, copiedLive, copiedRebalancing)
		}
	}
}

// TestCopyingLive: the splits of a live source are all read, its objects copied, and it goes on
// when its splits have changed.
func TestCopyingLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := async.Func(func(_ context.Context, v *int) (int, error) {
			time.Sleep(5 * time.Second) // the source has read on meanwhile
			return *v, nil
		}, 4)
		shifts := &shifty{changes: []error{nil}}
		j := New("live", Config{Checkpoint: CheckpointConfig{Interval: time.Minute}})
		src := Copying[*int](shiftingLog{reusingLog{}, shifts}, func(v *int) *int { w := *v; return &w })
		out := Collect(OrderedWait(From(j, src), slow, async.Config{Capacity: 100}))
		r := j.Start(t.Context())
		time.Sleep(time.Minute)
		r.Stop()
		if err := r.Wait(); !errors.Is(err, ErrStopped) {
			t.Fatal(err)
		}
		// The results are in the order of the splits.
		splits := 0
		for i, v := range out.Results() {
			if v == 1 {
				splits++
			} else if i == 0 || v != out.Results()[i-1]+1 {
				t.Fatalf("the results are %v; want 1 2 3 ... of each split", out.Results())
			}
		}
		if splits != 2 || len(shifts.changes) != 0 {
			t.Errorf("the results of %d splits are %v, which were to change %d times more", splits, out.Results(), len(shifts.changes))
		}
	})
}
