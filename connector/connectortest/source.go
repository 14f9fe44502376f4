package connectortest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

// Input is a source whose input does not change during the test.
type Input[T any] struct {
	// New makes the source as another process would. It is called several times.
	New func() connector.Source[T]
	// Records is the number of records in the input.
	Records int
	// Text shows a value, to compare it.
	Text func(T) string
}

// read is one record as the test keeps it.
type read[T any] struct {
	position int64
	text     string
	value    T
}

// Source checks a source against its contract (connector.Source, connector.Unbounded). Splits do
// not change from one process to the next, every record is in one of them once, positions grow, and
// a split can be read again from any position that Read returned, with the same records. Values do
// not change while reading goes on. Verify accepts all of these positions.
func Source[T any](t *testing.T, in Input[T]) {
	t.Helper()
	ctx := t.Context()
	splits, err := in.New().Splits(ctx)
	if err != nil {
		t.Fatal(err)
	}
	again, err := in.New().Splits(ctx)
	if err != nil || !slices.EqualFunc(splits, again, func(a, b connector.Split) bool { return string(a.Data) == string(b.Data) && a.Start == b.Start }) {
		t.Fatalf("the second call of Splits returned other splits: %v, then %v, %v", splits, again, err)
	}
	total := 0
	for i := range splits {
		total += len(checkSplit(t, in, splits, i))
	}
	if total != in.Records {
		t.Errorf("%d records in all splits, want %d", total, in.Records)
	}
}

func checkSplit[T any](t *testing.T, in Input[T], splits []connector.Split, i int) []read[T] {
	t.Helper()
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, uint64(i)))
	want, ends := readSplit(t, in, splits, i, splits[i].Start, 100)
	for k := range want {
		if k > 0 && want[k].position <= want[k-1].position {
			t.Fatalf("split %d: position %d after %d", i, want[k].position, want[k-1].position)
		}
		if now := in.Text(want[k].value); now != want[k].text {
			t.Fatalf("split %d: the value at position %d was %s when it was read and is %s now; a value that Read returned must not change",
				i, want[k].position, want[k].text, now)
		}
	}
	from := slices.Clone(ends)
	for range 10 {
		if len(want) > 0 {
			from = append(from, want[rng.IntN(len(want))].position)
		}
	}
	for _, at := range from {
		next := make([]int64, len(splits))
		for k := range splits {
			next[k] = splits[k].Start
		}
		next[i] = at
		if err := in.New().Verify(t.Context(), splits, next); err != nil {
			t.Errorf("seed %d, split %d: Verify refuses position %d: %v", seed, i, at, err)
		}
		rest := want
		for len(rest) > 0 && rest[0].position < at {
			rest = rest[1:]
		}
		got, _ := readSplit(t, in, splits, i, at, 1+rng.IntN(50))
		if !slices.EqualFunc(got, rest, func(a, b read[T]) bool { return a.position == b.position && a.text == b.text }) {
			t.Errorf("seed %d, split %d: from position %d there are %d records, but there were %d before", seed, i, at, len(got), len(rest))
		}
	}
	return want
}

// atRest is how long a live source must return nothing before everything counts as read.
const atRest = 10 * time.Second

// readSplit reads to the end of a split, or until a live source returns nothing more.
func readSplit[T any](t *testing.T, in Input[T], splits []connector.Split, i int, at int64, most int) (all []read[T], ends []int64) {
	t.Helper()
	take := func(recs []async.Record[T], next int64) {
		if len(recs) > 2*most {
			t.Fatalf("split %d: %d records at once; at most about %d were asked for", i, len(recs), most)
		}
		for _, r := range recs {
			all = append(all, read[T]{r.Position, in.Text(r.Value), r.Value})
		}
		ends = append(ends, next)
	}
	src := in.New()
	live, ok := src.(connector.Unbounded[T])
	if !ok {
		r, err := src.Open(t.Context(), splits[i], at)
		if err != nil {
			t.Fatalf("split %d from position %d: %v", i, at, err)
		}
		defer r.Close()
		for {
			recs, next, err := r.Read(t.Context(), nil, most)
			take(recs, next)
			if err == io.EOF {
				return all, ends
			}
			if err != nil || len(recs) == 0 {
				t.Fatalf("split %d: %d records, %v", i, len(recs), err)
			}
		}
	}
	r, err := live.OpenAll(t.Context(), []connector.AssignedSplit{{Index: i, Split: splits[i], Position: at}})
	if err != nil {
		t.Fatalf("split %d from position %d: %v", i, at, err)
	}
	defer r.Close()
	for before := at; ; {
		ctx, cancel := context.WithTimeout(t.Context(), atRest)
		split, recs, next, err := r.Read(ctx, nil, most)
		ended := ctx.Err()
		cancel()
		if ended != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("split %d: at the end of its context Read returned %v", i, err)
			}
			return all, ends
		}
		if err != nil || len(recs) == 0 && next <= before || split != i {
			t.Fatalf("split %d: %d records of split %d up to position %d, %v", i, len(recs), split, next, err)
		}
		before = next
		take(recs, next)
	}
}
