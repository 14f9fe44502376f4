package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// simJob is what a seed says of the job; it stays the same over crashes.
type simJob struct {
	splits   [][]int
	order    async.Order
	policy   async.BarrierPolicy
	exchange exchange
	tail     bool // another exchange before the sink
	fan      bool // FlatMap in front of the operator
	twice    bool // a second asynchronous operator
	filter   bool
	split    bool // some records fail by their content, and go to dead letters
	interval time.Duration
	slow     time.Duration
}

// fn is the mapping of the job.
func simFn(v int) int { return v*3 + 1 }

func (s *sim) expected() []int {
	var out []int
	for _, split := range s.job.splits {
		for _, v := range split {
			for _, w := range s.inputs(v) {
				if s.job.fails(w) {
					continue
				}
				w = simFn(w)
				if s.job.twice {
					w = simFn(w)
				}
				if !s.job.filter || w%5 != 0 {
					out = append(out, w)
				}
			}
		}
	}
	return out
}

// fails says of a record in front of the first operator whether it is a bad one.
func (j *simJob) fails(v int) bool { return j.split && v%11 == 3 }

// letters are the records that must come out as dead letters.
func (s *sim) letters() []int {
	var out []int
	for _, split := range s.job.splits {
		for _, v := range split {
			for _, w := range s.inputs(v) {
				if s.job.fails(w) {
					out = append(out, w)
				}
			}
		}
	}
	return out
}

// inputs is what the FlatMap makes of a value.
func (s *sim) inputs(v int) []int {
	if !s.job.fan {
		return []int{v}
	}
	var vs []int
	for i := range v % 4 {
		vs = append(vs, v*10+i)
	}
	return vs
}

func (s *sim) build(resume *checkpoint.Snapshot) *Job {
	parallel := func() int { return 1 + s.rng.IntN(4) }
	// A short timeout aborts checkpoints, which must then be no reason to fail: where
	// no checkpoint can be quick enough, no restart would mend it.
	timeout, tolerable := time.Hour, s.rng.IntN(3)
	if s.chance(0.5) {
		timeout, tolerable = time.Duration(20+s.rng.IntN(500))*time.Millisecond, 1e6
	}
	// Without a pause the next checkpoint may begin in the moment in which one is complete.
	pause := time.Duration(max(0, s.rng.IntN(20)-10)) * time.Millisecond
	cfg := Config{
		Parallelism: parallel(),
		Checkpoint: CheckpointConfig{
			Interval: s.job.interval, Timeout: timeout, TolerableFailures: tolerable, MinPause: pause, Store: s.disk,
		},
		Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 1000},
		RunID:   "run", Attempt: s.boots, Resume: resume,
	}
	for id := range s.disk.snaps {
		cfg.LastID = max(cfg.LastID, id)
	}
	j := New("sim", cfg)
	records := From(j, simSource{s}, BoundedOutOfOrderness(time.Duration(s.rng.IntN(3))*time.Millisecond))
	if s.job.fan {
		records = FlatMap(records, func(v int, emit func(int)) error {
			for _, w := range s.inputs(v) {
				emit(w)
			}
			return nil
		})
	}
	switch s.job.exchange {
	case byKey:
		records = KeyBy(records, func(v int) string { return fmt.Sprint(v % 7) }, Parallel(parallel()))
	case inTurn:
		records = Rebalance(records, parallel())
	}
	key := func(v int) string { return fmt.Sprint(v % 7) }
	wait, waitLetters := Async[int, int], AsyncWithDeadLetters[int, int]
	if s.job.order == async.Keyed {
		wait = func(in *Stream[int], fn async.Function[int, int], cfg async.Config, opts ...AsyncOption) *Stream[int] {
			return KeyedWait(in, key, fn, cfg, opts...)
		}
		waitLetters = func(in *Stream[int], fn async.Function[int, int], cfg async.Config, opts ...AsyncOption) (*Stream[int], *Stream[async.Failed[int]]) {
			return AsyncWithDeadLetters(keyedFor(in, key, opts), fn, cfg, opts...)
		}
	}
	acfg := func() async.Config {
		capacity := 1 + s.rng.IntN(20)
		cfg := async.Config{Order: s.job.order, Capacity: capacity, MaxCalls: s.rng.IntN(capacity + 1), Timeout: 2 * time.Second, Barrier: s.job.policy, Retry: async.Retry{Jitter: async.Off}}
		if s.job.policy == async.Drain && s.chance(0.3) {
			cfg.DrainLimit = time.Duration(s.rng.IntN(20)) * time.Millisecond
		}
		if s.chance(0.3) {
			cfg.MaxBytes = int64(1 + s.rng.IntN(80))
		}
		return cfg
	}
	if s.job.split {
		cfg := acfg()
		cfg.OnError.BadRecord = async.DeadLetter
		var failed *Stream[async.Failed[int]]
		records, failed = waitLetters(records, simFunc{s, true}, cfg)
		if s.job.tail {
			failed = Rebalance(failed, parallel())
		}
		To(Map(failed, func(f async.Failed[int]) (int, error) { return f.Record.Value, nil }), diskSink{s.lost}, Name("letters"))
	} else {
		records = wait(records, simFunc{s, false}, acfg())
	}
	if s.job.twice {
		records = wait(records, simFunc{s, false}, acfg())
	}
	if s.job.filter {
		records = Filter(records, func(v int) bool { return v%5 != 0 })
	}
	if s.job.tail {
		records = Rebalance(records, parallel())
	}
	To(records, diskSink{s.disk})
	return j
}

// simulated says whether a failure is one that the simulation makes; a restart would hide any
// other.
func simulated(err error) bool {
	for _, known := range []error{async.ErrTimeout, errCrashed} {
		if errors.Is(err, known) {
			return true
		}
	}
	for _, text := range []string{"failed for good", "simulated failure", "read failed", "open failed", "done"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// simSource reads the splits of the simulated job. A record's position is ten times its index.
type simSource struct{ s *sim }

func (src simSource) Splits(context.Context) ([]connector.Split, error) {
	splits := make([]connector.Split, len(src.s.job.splits))
	for i := range splits {
		splits[i].Data = fmt.Append(nil, i)
	}
	return splits, nil
}

func (src simSource) Verify(_ context.Context, splits []connector.Split, next []int64) error {
	if len(splits) != len(src.s.job.splits) {
		return fmt.Errorf("%d splits came back of %d", len(splits), len(src.s.job.splits))
	}
	return nil
}

func (src simSource) Open(_ context.Context, split connector.Split, position int64) (connector.Reader[int], error) {
	var i int
	if _, err := fmt.Sscan(string(split.Data), &i); err != nil {
		return nil, err
	}
	return &simReader{src.s, src.s.job.splits[i], int(position / 10)}, nil
}

type simReader struct {
	s      *sim
	values []int
	at     int
}

func (r *simReader) Read(_ context.Context, dst []Record[int], limit int) ([]Record[int], int64, error) {
	if r.s.strike(0.005) {
		return dst, int64(r.at) * 10, errors.New("read failed")
	}
	for n := 1 + r.s.rng.IntN(20); n > 0 && len(dst) < limit && r.at < len(r.values); n-- {
		dst = append(dst, Record[int]{Value: r.values[r.at], Time: EventTime(r.values[r.at]), Position: int64(r.at) * 10})
		r.at++
	}
	if r.at == len(r.values) {
		return dst, int64(r.at) * 10, io.EOF
	}
	return dst, int64(r.at) * 10, nil
}

func (r *simReader) Close() error { return nil }

// simFunc answers after a while, in any order, now and then twice, late, not at
// all, with overload, with a transient error or with one that fails the job.
type simFunc struct {
	s   *sim
	bad bool // some records fail by their content
}

func (f simFunc) Open(_ context.Context, sub async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	return &simCaller{s: f.s, p: f.s.proc, done: done, bad: f.bad}, nil
}

type simCaller struct {
	s      *sim
	p      *simProc
	done   async.Completer[int]
	bad    bool
	closed bool
}

type simFailure struct{ verdict async.Verdict }

func (f simFailure) Error() string          { return "simulated failure" }
func (f simFailure) Verdict() async.Verdict { return f.verdict }

func (c *simCaller) Call(batch []async.Call[int]) {
	s := c.s
	for _, call := range batch {
		answer := async.Completion[int]{ID: call.ID, Outputs: async.One(simFn(call.Record.Value))}
		again := s.chance(0.05)
		switch {
		case s.chance(0.03):
			answer.Err = simFailure{async.Verdict{Class: async.Overload, Hold: true, RetryAfter: s.small()}}
		case s.chance(0.01):
			answer.Err = simFailure{async.Verdict{Retry: true}}
		case call.Record.Value != s.lastFail && s.strike(0.01):
			s.lastFail = call.Record.Value
			if s.chance(0.3) {
				continue // never answered
			}
			answer.Err = errors.New("failed for good")
		case c.bad && s.job.fails(call.Record.Value):
			answer.Err = simFailure{async.Verdict{Class: async.BadRecord}}
		}
		d := time.Duration(s.rng.Int64N(int64(s.job.slow)))
		c.p.after(d, "answer", func() { c.complete(answer) })
		if again {
			c.p.after(2*d, "answer again", func() { c.complete(answer) })
		}
	}
}

func (c *simCaller) complete(a async.Completion[int]) {
	if !c.closed {
		c.done.Complete([]async.Completion[int]{a})
	}
}

func (c *simCaller) Cancel([]async.CallID) {}

func (c *simCaller) Close() error {
	c.closed = true
	return nil
}

// check says what is wrong with the published output.
func (s *sim) check() error {
	if s.err != nil {
		return s.err
	}
	want, recs := s.expected(), s.disk.output()
	var got []int
	for _, r := range recs {
		got = append(got, r.Value)
	}
	var letters []int
	for _, r := range s.lost.output() {
		letters = append(letters, r.Value)
	}
	lost := s.letters()
	if !(s.job.order == async.Ordered && s.job.exchange == forward && !s.job.tail) {
		slices.Sort(letters)
		slices.Sort(lost)
	}
	if !slices.Equal(letters, lost) {
		return fmt.Errorf("the dead letters are %v; want %v", letters, lost)
	}
	inOrder := s.job.order == async.Ordered && s.job.exchange == forward && !s.job.tail
	if inOrder {
		if !slices.Equal(got, want) {
			return fmt.Errorf("the output is %v; want %v", got, want)
		}
		return s.checkCounts(len(want))
	}
	if (s.job.order == async.Ordered && s.job.exchange == byKey || s.job.order == async.Keyed && s.job.exchange != inTurn) && !s.job.tail {
		// The order of a key within a split is that of the input.
		type line struct {
			key   string
			split int
		}
		last := map[line]int64{}
		for _, r := range recs {
			k := line{r.Key, r.Split}
			if r.Position < last[k] {
				return fmt.Errorf("key %s of split %d: position %d after %d", r.Key, r.Split, r.Position, last[k])
			}
			last[k] = r.Position
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("the output holds %d records %v; want %d %v", len(got), got, len(want), want)
	}
	return s.checkCounts(len(want))
}

func (s *sim) checkCounts(emitted int) error {
	if n := len(s.disk.pending) + len(s.lost.pending); n > 0 {
		return fmt.Errorf("%d pending results are left behind", n)
	}
	snap, err := s.disk.Newest(context.Background())
	if err != nil {
		return err
	}
	if !snap.Finished {
		return errors.New("the last checkpoint is not the final one")
	}
	read := 0
	for _, split := range s.job.splits {
		read += len(split)
	}
	counters := map[string]int64{}
	for _, c := range snap.Counters {
		counters[c.Name] = c.Value
	}
	if counters["dead-lettered"] != int64(len(s.letters())) {
		return fmt.Errorf("the counters are %v; want %d dead letters", counters, len(s.letters()))
	}
	if !s.job.fan && !s.job.twice && counters["read"] != counters["completed"]+counters["dropped"]+counters["dead-lettered"] {
		return fmt.Errorf("the counters do not balance: %v", counters)
	}
	if counters["read"] != int64(read) || counters["emitted"] != int64(emitted) {
		return fmt.Errorf("the counters are %v; want %d read and %d emitted", counters, read, emitted)
	}
	return nil
}
