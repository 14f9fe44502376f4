package async_test

import (
	"context"
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// printed is an Emitter.
type printed struct{}

func (printed) Emit(recs []async.Record[int]) {
	for _, r := range recs {
		fmt.Println("result", r.Value)
	}
}

func (printed) Watermark(w async.Watermark) { fmt.Println("watermark", w.Time) }

// A host with a slice as its input: it admits records, steps, and waits until there is something to
// do.
func ExampleNewOperator() {
	ctx := context.Background()
	square := async.Func(func(_ context.Context, v int) (int, error) { return v * v, nil }, 8)
	woken := make(chan struct{}, 1)
	wake := func() { // from any goroutine, and it must not block
		select {
		case woken <- struct{}{}:
		default:
		}
	}
	op, err := async.NewOperator(square, async.Config{Capacity: 2}, async.Subtask{}, wake)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer op.Close()
	if err := op.Open(ctx); err != nil {
		fmt.Println(err)
		return
	}
	input := []async.Record[int]{{Value: 1}, {Value: 2}, {Value: 3}}
	marked, ended := false, false
	for {
		input = input[op.Admit(input):]
		if len(input) == 0 && !marked {
			marked = op.Watermark(async.Watermark{Time: 1000}) // behind all records so far
		}
		if marked && !ended {
			op.End()
			ended = true
		}
		st, err := op.Step(time.Now(), 100, printed{})
		switch {
		case err != nil:
			fmt.Println(err)
			return
		case st.Ended:
			return
		case st.More || !ended && op.Room() > 0:
			continue // there is more to do at once
		}
		var due <-chan time.Time
		if !st.Next.IsZero() {
			due = time.After(time.Until(st.Next))
		}
		select {
		case <-woken: // an outcome has come
		case <-due: // a timer of the operator's
		case <-ctx.Done():
			return
		}
	}
	// Output:
	// result 1
	// result 4
	// result 9
	// watermark 1000
}
