package stream

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// reusing is a source of 1..n that gives one and the same object for every record.
type reusing struct{ n int64 }

func (reusing) Splits(context.Context) ([]Split, error)        { return []Split{{}}, nil }
func (reusing) Verify(context.Context, []Split, []int64) error { return nil }
func (s reusing) Open(_ context.Context, _ Split, at int64) (Reader[*int], error) {
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
	results := func(src Source[*int]) (got []int) {
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
	copied := Copying(Source[*int](reusing{4}), func(v *int) *int { w := *v; return &w })
	if got := results(copied); !slices.Equal(got, []int{2, 4, 6, 8}) {
		t.Errorf("copied: %v", got)
	}
	if got := results(reusing{4}); !slices.Equal(got, []int{8, 8, 8, 8}) {
		t.Errorf("not copied: %v; the source does not reuse its object, so nothing was tested", got)
	}
}

// TestCopyingRefuses what cannot work, with a word, and passes the source's own failure on.
func TestCopyingRefuses(t *testing.T) {
	for want, src := range map[string]Source[int]{
		"the source is nil":                 Copying[int](nil, func(v int) int { return v }),
		"the function that copies is nil":   Copying(FromSlice([]int{1}), nil),
		"Read of source: no copy":           Copying(FromSlice([]int{1}), func(int) int { panic("no copy") }),
		"neither a reader nor an error":     Copying(Source[int](readerless{}), func(v int) int { return v }),
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

func (readerless) Open(context.Context, Split, int64) (Reader[int], error) { return nil, nil }
