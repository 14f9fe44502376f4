package stream_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// A job from memory to memory: results come in the order of the input, however
// long each call takes.
func Example() {
	square := async.Func(func(ctx context.Context, v int) (int, error) {
		time.Sleep(time.Duration(5-v) * time.Millisecond) // the first answers last
		return v * v, nil
	}, 8)

	j := stream.New("squares", stream.Config{Parallelism: 2})
	numbers := stream.From(j, stream.FromSlice([]int{1, 2, 3, 4, 5}))
	squares := stream.OrderedWait(numbers, square, async.Config{Timeout: time.Second})
	results := stream.Collect(squares)
	if err := j.Run(context.Background()); err != nil {
		fmt.Println(err)
	}
	fmt.Println(results.Results())
	// Output: [1 4 9 16 25]
}

// Checkpoints and a restart: the call fails once, the job goes back to its newest
// checkpoint, and every result is there exactly once.
func Example_restart() {
	var failed atomic.Bool
	flaky := async.Func(func(ctx context.Context, v int) (int, error) {
		if v == 700 && failed.CompareAndSwap(false, true) {
			return 0, errors.New("the model server is gone")
		}
		return v, nil
	}, 8)

	values := make([]int, 1000)
	for i := range values {
		values[i] = i
	}
	j := stream.New("restarts", stream.Config{
		Checkpoint: stream.CheckpointConfig{Interval: 5 * time.Millisecond},
		Restart:    restart.Config{Strategy: restart.FixedDelay, Delay: time.Millisecond},
	})
	results := stream.Collect(stream.OrderedWait(stream.From(j, stream.FromSlice(values)), flaky, async.Config{Capacity: 100}))
	run := j.Start(context.Background())
	err := run.Wait()
	fmt.Println(err, run.Progress().Restarts, len(results.Results()), results.Results()[700])
	// Output: <nil> 1 1000 700
}

// A job is stopped with a checkpoint while a call hangs, and goes on from it with
// another parallelism. Under the Snapshot policy the record that was called is in
// the checkpoint.
func ExampleRun_Stop() {
	store := stream.NewMemoryStore() // a checkpoint.Store keeps them in a folder
	hanging := make(chan struct{})
	job := func(parallelism int, resume *checkpoint.Snapshot) *stream.Job {
		fn := async.Func(func(ctx context.Context, v int) (int, error) {
			if v == 3 && resume == nil {
				close(hanging)
				<-ctx.Done()
			}
			return 2 * v, ctx.Err()
		}, 1)
		j := stream.New("stops", stream.Config{
			Parallelism: parallelism,
			Checkpoint:  stream.CheckpointConfig{Store: store},
			Resume:      resume,
		})
		numbers := stream.From(j, stream.FromSlice([]int{0, 1, 2, 3, 4, 5}))
		stream.To(stream.OrderedWait(numbers, fn, async.Config{Barrier: async.Snapshot}), discard{})
		return j
	}

	run := job(1, nil).Start(context.Background())
	<-hanging
	run.Stop()
	fmt.Println(run.Wait())

	newest, err := store.Newest(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	run = job(2, newest).Start(context.Background())
	fmt.Println(run.Wait(), run.Progress().Read, run.Progress().Emitted)
	// Output:
	// stopped, resumable
	// <nil> 6 6
}

// discard is a sink that publishes nothing.
type discard struct{}

func (discard) Open(context.Context, async.Subtask) (connector.Writer[int], error) {
	return discard{}, nil
}
func (discard) Committer(context.Context) (connector.Committer, error)          { return discard{}, nil }
func (discard) Write([]stream.Record[int]) error                                { return nil }
func (discard) Prepare(context.Context, int64) ([]connector.Pending, error)     { return nil, nil }
func (discard) Begin(context.Context, []byte) ([]byte, error)                   { return nil, nil }
func (discard) Plan([]byte, []connector.Pending) (next, plan []byte, err error) { return nil, nil, nil }
func (discard) Commit(context.Context, []byte) error                            { return nil }
func (discard) Clean(context.Context) error                                     { return nil }
func (discard) Close() error                                                    { return nil }
