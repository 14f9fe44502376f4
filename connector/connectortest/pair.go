package connectortest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// Guarantee is what a pair of source and sink promises.
type Guarantee int

// The guarantees.
const (
	// ExactlyOnce: every record's result is published once, those of a lane in their order.
	ExactlyOnce Guarantee = iota
	// AtLeastOnce: every record's result is published. Repetitions begin further back and go on
	// in order.
	AtLeastOnce
)

// Pair is a source and a sink that a job is made of. Records are lines of JSON (Line), in lanes
// that the source keeps in order.
type Pair[T ~[]byte] struct {
	// Lanes is the number of parts of the input that the source reads in order, such as files or
	// partitions. Records is the number of records in each lane.
	Lanes, Records int
	// Open makes source and sink as a new process would. close is called after the job, and closes
	// what the two share.
	Open func() (source connector.Source[T], sink connector.Sink[T], close func() error)
	// Store keeps the checkpoints of all processes of the test. Set exactly one of Store and
	// StoreOf.
	Store stream.CheckpointStore
	// StoreOf returns the store of the process that Open was called for last. It is for connectors
	// that keep their own checkpoints, such as a kafka.Group.
	StoreOf func() stream.CheckpointStore
	// Published are the lines that a reader of published results sees now, of each lane.
	Published func() map[int][]string
	Guarantee Guarantee
	// Endless says that the job does not end by itself.
	Endless bool
}

// process starts the pair's job as a new process would.
func (p *Pair[T]) process(t *testing.T, seed uint64, resume *checkpoint.Snapshot) (run *stream.Run, cancel context.CancelFunc, done func()) {
	source, sink, end := p.Open()
	store := p.Store
	if store == nil {
		store = p.StoreOf()
	}
	j := stream.New("pair", stream.Config{
		Parallelism: 2, Resume: resume,
		Checkpoint: stream.CheckpointConfig{Interval: 40 * time.Millisecond, Store: store},
		Restart:    restart.Config{Strategy: restart.FixedDelay, Attempts: 10_000, Delay: 5 * time.Millisecond},
	})
	rng := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	slow := async.Func(func(ctx context.Context, v T) (T, error) {
		mu.Lock()
		fail, d := rng.IntN(500) == 0, time.Duration(1+rng.IntN(20))*time.Millisecond
		mu.Unlock()
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if fail {
			return nil, away{}
		}
		return v, nil
	}, 32)
	stream.To(stream.OrderedWait(stream.From(j, source), slow, async.Config{Capacity: 32, Retry: async.Retry{Max: async.Off}}), sink)
	ctx, cancel := context.WithCancel(t.Context())
	return j.Start(ctx), cancel, func() {
		cancel()
		_ = run.Wait()
		if err := end(); err != nil {
			t.Errorf("closing source and sink: %v", err)
		}
	}
}

// Job runs a job of the pair in one process after another: each fails now and then and restarts, is
// stopped or is cancelled at a random moment, and the next goes on. In the end the guarantee must
// hold.
func Job[T ~[]byte](t *testing.T, p Pair[T]) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	deadline := time.Now().Add(time.Hour)
	for n := 0; ; n++ {
		if time.Now().After(deadline) {
			t.Fatalf("seed %d: %d of %d results after %d processes", seed, p.count(), p.Lanes*p.Records, n)
		}
		var resume *checkpoint.Snapshot
		if p.Store != nil {
			var err error
			if resume, err = p.Store.Newest(t.Context()); err != nil && !errors.Is(err, checkpoint.ErrNoCheckpoint) {
				t.Fatal(err)
			}
		}
		run, cancel, done := p.process(t, seed+uint64(n), resume)
		defer cancel()
		ended := false
		select {
		case <-run.Done():
			ended = true
		case <-time.After(time.Duration(50+rng.IntN(600)) * time.Millisecond):
		}
		switch {
		case ended:
			if err := run.Wait(); err != nil {
				t.Fatalf("seed %d: process %d: %v", seed, n, err)
			}
		case rng.IntN(2) == 0:
			run.Stop()
			if err := run.Wait(); err != nil && !errors.Is(err, stream.ErrStopped) {
				t.Fatalf("seed %d: process %d: %v", seed, n, err)
			}
		default:
			cancel() // in the middle of whatever it does
			_ = run.Wait()
		}
		done()
		if ended && !p.Endless || p.Endless && p.count() >= p.Lanes*p.Records {
			break
		}
	}
	p.check(t, seed)
}

func (p *Pair[T]) count() (n int) {
	for _, lines := range p.Published() {
		n += len(lines)
	}
	return n
}

func (p *Pair[T]) check(t *testing.T, seed uint64) {
	t.Helper()
	published := p.Published()
	for lane := range p.Lanes {
		at := map[string]int{}
		for n := range p.Records {
			at[Line(lane, n)] = n
		}
		next, seen := 0, 0
		for k, line := range published[lane] {
			n, ok := at[line]
			switch {
			case !ok:
				t.Fatalf("seed %d, lane %d: %q is not a result", seed, lane, line)
			case p.Guarantee == ExactlyOnce && n != next:
				t.Fatalf("seed %d, lane %d: result %d is the one of record %d, want record %d", seed, lane, k, n, next)
			case n > next:
				t.Fatalf("seed %d, lane %d: result %d is the one of record %d, but the result of record %d is missing before it", seed, lane, k, n, next)
			}
			next = n + 1
			seen = max(seen, next)
		}
		if seen != p.Records {
			t.Errorf("seed %d, lane %d: %d of %d records have results", seed, lane, seen, p.Records)
		}
	}
}

// away is a failure of a server that is out of reach for a moment. Any number of restarts may
// follow such failures.
type away struct{}

func (away) Error() string          { return "simulated failure" }
func (away) Verdict() async.Verdict { return async.Verdict{Class: async.Transport} }

// Line is the text of record n of a lane.
func Line(lane, n int) string { return fmt.Sprintf(`{"lane":%d,"n":%d}`, lane, n) }
