package async_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tensorferry/tensorferry/async"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func upTo(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// double takes a random time in virtual time, so results complete out of order.
func double(seed uint64) func(context.Context, int) (int, error) {
	return func(ctx context.Context, v int) (int, error) {
		d := rand.New(rand.NewPCG(seed, uint64(v))).IntN(1000)
		select {
		case <-time.After(time.Duration(d) * time.Millisecond):
			return 2 * v, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func collect(t *testing.T, seq func(func(int, error) bool)) []int {
	t.Helper()
	var got []int
	for v, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, v)
	}
	return got
}

func TestMapKeepsTheOrder(t *testing.T) {
	for _, capacity := range []int{1, 2, 7, 1000} {
		t.Run(fmt.Sprint(capacity), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := async.Values(slices.Values(upTo(500)))
				got := collect(t, async.Map(t.Context(), in, async.Func(double(1), 0), async.Config{Capacity: capacity}))
				for i, v := range got {
					if v != 2*i {
						t.Fatalf("result %d is %d", i, v)
					}
				}
				if len(got) != 500 {
					t.Fatalf("%d results", len(got))
				}
			})
		})
	}
}

func TestUnorderedMapGivesTheSameSetInAnotherOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := async.Values(slices.Values(upTo(500)))
		got := collect(t, async.Map(t.Context(), in, async.Func(double(2), 0), async.Config{Order: async.Unordered}))
		if slices.IsSorted(got) {
			t.Error("nothing was reordered, so nothing was tested")
		}
		slices.Sort(got)
		for i, v := range got {
			if v != 2*i {
				t.Fatalf("result %d is %d", i, v)
			}
		}
	})
}

func TestMapEndsWithTheInputsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken pipe")
		in := func(yield func(int, error) bool) {
			for i := range 3 {
				if !yield(i, nil) {
					return
				}
			}
			yield(0, broken)
		}
		var got []int
		var last error
		for v, err := range async.Map(t.Context(), in, async.Func(double(3), 0), async.Config{}) {
			if err != nil {
				last = err
				continue
			}
			got = append(got, v)
		}
		if !slices.Equal(got, []int{0, 2, 4}) || !errors.Is(last, broken) {
			t.Fatalf("got %v, %v; want the results before the error, then the error", got, last)
		}
	})
}

func TestMapFailsWithTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		odd := errors.New("odd")
		f := func(_ context.Context, v int) (int, error) {
			if v == 5 {
				return 0, odd
			}
			return v, nil
		}
		var last error
		for _, err := range async.Map(t.Context(), async.Values(slices.Values(upTo(10))), async.Func(f, 1), async.Config{}) {
			last = err
		}
		re, ok := errors.AsType[*async.RecordError](last)
		if !ok || re.Position != 5 || re.Attempts != 1 || !errors.Is(last, odd) {
			t.Fatalf("got %v; want a RecordError at position 5 that wraps the cause", last)
		}
	})
}

// forever yields numbers until its consumer stops.
func forever(yield func(int, error) bool) {
	for i := 0; yield(i, nil); i++ {
	}
}

func TestBreakCancelsAndLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a bubble with a goroutine left in it fails
		n := 0
		for range async.Map(t.Context(), forever, async.Func(double(4), 0), async.Config{Capacity: 50}) {
			if n++; n == 100 {
				break
			}
		}
		synctest.Wait()
	})
}

func TestCancelKeepsItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		var last error
		n := 0
		for _, err := range async.Map(ctx, forever, async.Func(double(5), 0), async.Config{}) {
			last = err
			if n++; n == 10 {
				cancel(cause)
			}
		}
		if !errors.Is(last, cause) {
			t.Fatalf("ended with %v", last)
		}
	})
}

func TestMapTimesOutToTheTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		hang := func(ctx context.Context, _ int) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		var last error
		for _, err := range async.Map(t.Context(), async.Values(slices.Values(upTo(3))), async.Func(hang, 0), async.Config{Timeout: 1234 * time.Millisecond}) {
			last = err
		}
		if !errors.Is(last, async.ErrTimeout) || time.Since(start) != 1234*time.Millisecond {
			t.Fatalf("%v after %v", last, time.Since(start))
		}
		if async.VerdictOf(last).Class != async.Timeout {
			t.Fatalf("class %v", async.VerdictOf(last).Class)
		}
	})
}

func TestPanicsAreFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := func(context.Context, int) (int, error) { panic("boom") }
		for _, err := range async.Map(t.Context(), forever, async.Func(f, 0), async.Config{}) {
			if p, ok := errors.AsType[*async.PanicError](err); !ok || p.Value != "boom" || len(p.Stack) == 0 {
				t.Fatalf("got %v", err)
			}
		}
		in := func(func(int, error) bool) { panic("input") }
		for _, err := range async.Map(t.Context(), in, async.Func(f, 0), async.Config{}) {
			if p, ok := errors.AsType[*async.PanicError](err); !ok || p.Value != "input" {
				t.Fatalf("got %v", err)
			}
		}
	})
}

// TestFunctionThatEndsItsGoroutine: a function that ends its goroutine fails the record, and
// another goroutine replaces the one that ended.
func TestFunctionThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := func(_ context.Context, v int) (int, error) {
			if v%3 == 0 {
				runtime.Goexit()
			}
			return v, nil
		}
		in := async.Values(slices.Values(upTo(12)))
		start := time.Now()
		got := collect(t, async.Map(t.Context(), in, async.Func(f, 2), async.Config{OnError: async.OnError{Backend: async.Drop}}))
		if want := []int{1, 2, 4, 5, 7, 8, 10, 11}; !slices.Equal(got, want) || time.Since(start) != 0 {
			t.Errorf("%v after %v; want %v at once", got, time.Since(start), want)
		}
		for _, err := range async.Map(t.Context(), in, async.Func(f, 2), async.Config{}) {
			if err == nil || !strings.Contains(err.Error(), "the function did not return: it ended its goroutine") {
				t.Errorf("ended with %v", err)
			}
		}
	})
}

// TestInputThatEndsItsGoroutine: an input that ends its goroutine has failed. Its failure comes
// after the values that it yielded before.
func TestInputThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := func(yield func(int, error) bool) {
			yield(1, nil)
			runtime.Goexit()
		}
		var got []string
		for v, err := range async.Map(t.Context(), in, async.Func(double(1), 0), async.Config{}) {
			line, _, _ := strings.Cut(fmt.Sprint(v, err), "\n") // the stack follows
			got = append(got, line)
		}
		if want := []string{"2 <nil>", "0 the input of Map did not return: it ended its goroutine (runtime.Goexit)"}; !slices.Equal(got, want) {
			t.Errorf("got %q; want %q", got, want)
		}
	})
}

func TestMapRefusesAWrongConfiguration(t *testing.T) {
	for _, err := range async.Map(t.Context(), forever, async.Func(double(1), 0), async.Config{Capacity: -1, Hold: -1}) {
		if err == nil {
			t.Fatal("a result")
		}
		const want = "async: invalid configuration: capacity is -1; want 1 to 16777216, or 0 for 1000; hold is -1ns; want more than 0, or 0 for 1m0s"
		if err.Error() != want {
			t.Fatalf("got %q", err)
		}
	}
}

func ExampleMap() {
	square := func(_ context.Context, v int) (int, error) { return v * v, nil }
	in := async.Values(slices.Values([]int{1, 2, 3}))
	for v, err := range async.Map(context.Background(), in, async.Func(square, 8), async.Config{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(v)
	}
	// Output:
	// 1
	// 4
	// 9
}

func TestMapHasNoKeys(t *testing.T) {
	for _, err := range async.Map(t.Context(), async.Values(slices.Values(upTo(5))), async.Func(double(1), 0), async.Config{Order: async.Keyed}) {
		if err == nil || !strings.Contains(err.Error(), "values have no keys") {
			t.Errorf("the error is %v", err)
		}
	}
}
