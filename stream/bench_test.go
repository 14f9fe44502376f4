package stream

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

// endless gives records without end, without allocating.
type endless struct{ limit int }

func (e endless) Splits(context.Context) ([]connector.Split, error) {
	return []connector.Split{{}}, nil
}
func (e endless) Verify(context.Context, []connector.Split, []int64) error { return nil }
func (e endless) Open(context.Context, connector.Split, int64) (connector.Reader[int], error) {
	return &endlessReader{limit: int64(e.limit)}, nil
}

type endlessReader struct{ at, limit int64 }

func (r *endlessReader) Read(_ context.Context, dst []Record[int], limit int) ([]Record[int], int64, error) {
	for n := 0; n < limit && (r.limit == 0 || r.at < r.limit); n++ {
		dst = append(dst, Record[int]{Value: int(r.at), Time: async.NoTime, Position: r.at})
		r.at++
	}
	if r.at == r.limit {
		return dst, r.at, io.EOF
	}
	return dst, r.at, nil
}

func (r *endlessReader) Close() error { return nil }

// sum is a sink that adds up.
type sum struct {
	diskCommitter
	total int
}

func (s *sum) Open(context.Context, async.Subtask) (connector.Writer[int], error) { return s, nil }
func (s *sum) Committer(context.Context) (connector.Committer, error) {
	return diskCommitter{newDisk()}, nil
}
func (s *sum) Prepare(context.Context, int64) ([]connector.Pending, error) { return nil, nil }
func (s *sum) Close() error                                                { return nil }
func (s *sum) Write(recs []Record[int]) error {
	for i := range recs {
		s.total += recs[i].Value
	}
	return nil
}

// atOnce answers within Call.
type atOnce struct{}

func (atOnce) Open(_ context.Context, _ async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	return &instant{done: done}, nil
}

func plusOne(v int) (int, error) { return v + 1, nil }

// TestNoAllocations: in the steady state, records pass a source, a map, an exchange, an
// asynchronous operator and a sink without an allocation each.
func TestNoAllocations(t *testing.T) {
	j := New("alloc", Config{Parallelism: 1})
	s := Rebalance(Map(From(j, endless{}), plusOne), 2)
	To(Filter(OrderedWait(s, atOnce{}, async.Config{}), func(v int) bool { return v >= 0 }), connector.Sink[int](&sum{}))
	stages, err := j.compile()
	if err != nil {
		t.Fatal(err)
	}
	tasks := build(stages, func(st *stage, index int) *taskEnv {
		return &taskEnv{index: index, parallelism: st.parallelism, wake: func() {}, report: func(report) {}, logger: j.cfg.Logger,
			splits: map[string][]splitState{"source": {{}}}}
	})
	for _, k := range tasks {
		if err := k.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer k.close()
		if err := k.control(control{kind: startWork}); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	round := func() {
		for _, k := range tasks {
			if k.reader != nil && !k.reader.full() {
				k.reader.fetch(context.Background())
			}
			if _, _, err := k.step(now); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 100 {
		round()
	}
	before := tasks[0].counts[0].out.Load() + tasks[0].counts[len(tasks[0].counts)-1].out.Load()
	perRound := testing.AllocsPerRun(200, round)
	records := tasks[0].counts[0].out.Load() + tasks[0].counts[len(tasks[0].counts)-1].out.Load() - before
	if records < 20_000 {
		t.Fatalf("only %d records moved", records)
	}
	// A round moves a slice of records; what it allocates is not a record's.
	if perRound > 2 {
		t.Errorf("%.1f allocations a round of about %d records", perRound, records/200)
	}
}

// compare runs a plain loop and a job over the same records in turn, seven times, and reports both,
// the median of their ratios, and how far the ratios spread.
func compare(b *testing.B, build func(n int, to connector.Sink[int]) *Job, plain func(n int) int) {
	const pairs = 7
	n := max(b.N/pairs, 100_000)
	var ratios []float64
	var perRecord, perLoop float64
	for range pairs {
		began := time.Now()
		total := plain(n)
		loop := time.Since(began)
		var s sum
		began = time.Now()
		if err := build(n, &s).Run(context.Background()); err != nil {
			b.Fatal(err)
		}
		job := time.Since(began)
		if s.total != total {
			b.Fatalf("the job's sum is %d, the loop's %d", s.total, total)
		}
		ratios = append(ratios, float64(job)/float64(loop))
		perRecord += float64(job) / float64(n) / pairs
		perLoop += float64(loop) / float64(n) / pairs
	}
	slices.Sort(ratios)
	b.ReportMetric(perRecord, "ns/record")
	b.ReportMetric(perLoop, "loop-ns/record")
	b.ReportMetric(ratios[pairs/2], "x-loop")
	b.ReportMetric(ratios[pairs-1]-ratios[0], "spread")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPassThrough is source, map and sink against a loop over the same reader and functions.
func BenchmarkPassThrough(b *testing.B) {
	for _, exchanged := range []bool{false, true} {
		b.Run(fmt.Sprintf("exchange=%v", exchanged), func(b *testing.B) {
			compare(b, func(n int, to connector.Sink[int]) *Job {
				j := New("pass", Config{})
				s := Map(From(j, endless{n}), plusOne)
				if exchanged {
					s = Rebalance(Map(Rebalance(s, 2), plusOne), 1)
				}
				To(s, to)
				return j
			}, func(n int) int {
				if exchanged {
					return loop(n, func(v int) int { v, _ = plusOne(v); v, _ = plusOne(v); return v })
				}
				return loop(n, func(v int) int { v, _ = plusOne(v); return v })
			})
		})
	}
}

// BenchmarkAsync is the asynchronous operator with a function that answers at once, against a loop
// that calls it.
func BenchmarkAsync(b *testing.B) {
	compare(b, func(n int, to connector.Sink[int]) *Job {
		j := New("async", Config{})
		To(OrderedWait(From(j, endless{n}), atOnce{}, async.Config{}), to)
		return j
	}, func(n int) int { return loop(n, func(v int) int { return 2 * v }) })
}

// loop is what a job is measured against: read in slices, call, add up.
func loop(n int, fn func(int) int) (total int) {
	r := &endlessReader{limit: int64(n)}
	var buf []Record[int]
	for {
		var err error
		buf, _, err = r.Read(context.Background(), buf[:0], sliceSize)
		for i := range buf {
			buf[i].Value = fn(buf[i].Value)
		}
		for i := range buf {
			total += buf[i].Value
		}
		if err != nil {
			return total
		}
	}
}
