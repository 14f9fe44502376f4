//go:build !race

package async_test

// The race detector's own runtime fails now and then at goroutines that end in the midst of a function, so that these tests are run without it.

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// TestFunctionThatEndsItsGoroutine: that is the failure of the record, and the function's goroutines stay as many.
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

// TestInputThatEndsItsGoroutine: that is a failure of the input, which comes after what it gave before.
func TestInputThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := func(yield func(int, error) bool) {
			yield(1, nil)
			runtime.Goexit()
		}
		var got []string
		for v, err := range async.Map(t.Context(), in, async.Func(double(1), 0), async.Config{}) {
			got = append(got, fmt.Sprint(v, err))
		}
		if want := []string{"2 <nil>", "0 the input of Map did not return: it ended its goroutine (runtime.Goexit)"}; !slices.Equal(got, want) {
			t.Errorf("got %q; want %q", got, want)
		}
	})
}
