package stream_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream"
)

// Records that fail leave beside the results, with their failure, and the job goes on.
func ExampleAsyncWithDeadLetters() {
	inverse := async.Func(func(_ context.Context, v int) (float64, error) {
		if v == 0 {
			return 0, errors.New("division by zero")
		}
		return 1 / float64(v), nil
	}, 4)

	j := stream.New("inverses", stream.Config{})
	results, failed := stream.AsyncWithDeadLetters(stream.From(j, stream.FromSlice([]int{4, 0, 2})), inverse, async.Config{})
	good := stream.Collect(results)
	bad := stream.Collect(failed, stream.Name("dead letters"))
	if err := j.Run(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(good.Results())
	for _, f := range bad.Results() {
		fmt.Printf("record %v failed after %d attempt: %v\n", f.Record.Value, f.Attempts, errors.Unwrap(f.Err))
	}
	// Output:
	// [0.25 0.5]
	// record 0 failed after 1 attempt: division by zero
}

// The results of one user stay in order; users do not wait for each other.
func ExampleKeyedWait() {
	type event struct{ user, what string }
	score := async.Func(func(_ context.Context, e event) (string, error) { return e.user + " " + e.what, nil }, 4)

	j := stream.New("scores", stream.Config{})
	events := stream.From(j, stream.FromSlice([]event{{"ann", "logs in"}, {"bob", "logs in"}, {"ann", "pays"}, {"ann", "leaves"}}))
	scored := stream.Collect(stream.KeyedWait(events, func(e event) string { return e.user }, score, async.Config{}))
	if err := j.Run(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range scored.Results() {
		if s[:3] == "ann" {
			fmt.Println(s)
		}
	}
	// Output:
	// ann logs in
	// ann pays
	// ann leaves
}
