package stream

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

type hidden struct{ secret int }

// TestBuildMistakes: all mistakes are reported together, before anything starts.
func TestBuildMistakes(t *testing.T) {
	fn := async.Func(double, 0)
	id := func(v int) (int, error) { return v, nil }
	_, endless := async.Config{Timeout: async.Off, Capacity: -1}.Resolve()
	if endless == nil || !strings.Contains(endless.Error(), "no timeout with the drain policy") {
		t.Fatal(endless)
	}
	for _, c := range []struct {
		name  string
		cfg   Config
		build func(*Job)
		want  []string
	}{
		{"", Config{}, func(j *Job) {}, []string{"the job has no name", "it has no source; begin with stream.From"}},
		{"config", Config{Parallelism: -1, Checkpoint: CheckpointConfig{Interval: -1, TolerableFailures: -1}, Restart: restart.Config{Strategy: "x"},
			Resume: &checkpoint.Snapshot{}, Previous: &checkpoint.Snapshot{}, Attempt: -1},
			func(j *Job) { Collect(From(j, FromSlice([]int{}), Parallel(1))) },
			[]string{"parallelism is -1; want 1 to 1024", "checkpoint interval is -1ns, timeout 0s, minimum pause 0s; want 0 or more",
				"tolerable checkpoint failures are -1; want 0 or more", `restart: the strategy "x" is unknown; want none, fixed-delay, failure-rate or exponential-delay`,
				"both Resume and Previous are set; a run goes on or replaces a finished one; set one of them", "attempt is -1, last checkpoint id 0; want 0 or more"}},
		{"open end", Config{}, func(j *Job) { Map(From(j, FromSlice([]int{})), id) },
			[]string{"map: no operator takes its stream; end it with stream.To or stream.Collect"}},
		{"two takers", Config{}, func(j *Job) {
			s := From(j, FromSlice([]int{}))
			Collect(s)
			Collect(s)
		}, []string{`sink-2: the stream of "source" is already taken by "sink"; only one operator can take a stream`}},
		{"names", Config{}, func(j *Job) {
			Collect(Map(From(j, FromSlice([]int{}), Name("a")), id, Name("a")), Name("b"))
		}, []string{"a: two operators have this name; rename one of them with stream.Name"}},
		{"nil", Config{}, func(j *Job) {
			var none connector.Sink[int]
			To(OrderedWait[int, int](KeyBy(Filter(FlatMap[int, int](From[int](j, nil), nil), nil), nil), nil, async.Config{}), none)
		}, []string{"source: the source is nil", "flatmap: the function is nil", "filter: the function is nil",
			"keyby: the function is nil", "async: the function is nil", "sink: the sink is nil"}},
		{"options", Config{}, func(j *Job) {
			s := Map(From(j, FromSlice([]int{}), nil), id, Parallel(-2))
			Collect(Rebalance(s, 0), Parallel(5000))
		}, []string{"source: an option is nil",
			"map: parallelism is -2; want 1 to 1024", "rebalance after map: parallelism is 0; want 1 to 1024",
			"sink: parallelism is 5000; want 1 to 1024"}},
		{"no keys", Config{}, func(j *Job) {
			Collect(Async(From(j, FromSlice([]int{})), fn, async.Config{Order: async.Keyed}))
			elsewhere := KeyBy(From(j, FromSlice([]int{})), strconv.Itoa, Parallel(2))
			Collect(Async(Rebalance(elsewhere, 3), fn, async.Config{Order: async.Keyed}))
			together := KeyBy(From(j, FromSlice([]int{})), strconv.Itoa)
			Collect(Async(Map(together, id), fn, async.Config{Order: async.Keyed}))
		}, []string{"async: the order is keyed, but its input is not partitioned by key; want a stream from stream.KeyBy",
			"async-2: the order is keyed, but its input is not partitioned by key; want a stream from stream.KeyBy"}},
		{"drain for ever", Config{}, func(j *Job) {
			Collect(OrderedWait(From(j, FromSlice([]int{}), BoundedOutOfOrderness(-1)), fn, async.Config{Timeout: async.Off, Capacity: -1}))
		}, []string{"source: watermark lag is -1ns, idle time 0s; want 0 or more",
			"async: " + endless.Error()}},
		{"serializer", Config{Checkpoint: CheckpointConfig{Interval: time.Second}}, func(j *Job) {
			hide := async.Func(func(_ context.Context, h hidden) (int, error) { return h.secret, nil }, 0)
			Collect(UnorderedWait(From(j, FromSlice([]hidden{})), hide, async.Config{}))
			// It drains, so it needs no serializer.
			Collect(OrderedWait(From(j, FromSlice([]hidden{})), hide, async.Config{}))
			Collect(UnorderedWait(From(j, FromSlice([]int{})), fn, async.Config{}, WithSerializer[string](layoutSerializer[string]{})))
		}, []string{"async: the snapshot policy keeps records of type stream.hidden in checkpoints, but a restore would change them: field secret of stream.hidden is not exported; " +
			"set stream.WithSerializer, or the drain policy",
			"async-3: the serializer is a stream.layoutSerializer[string]; want one for records of type int"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := New(c.name, c.cfg)
			c.build(j)
			r := j.Start(t.Context())
			err := r.Wait()
			want := `job "` + c.name + `" cannot start: ` + strings.Join(c.want, "\n")
			if err == nil || err.Error() != want {
				t.Errorf("the error is\n%v\nwant\n%s", err, want)
			}
			if r.Progress().State != StateFailed {
				t.Errorf("the state is %v", r.Progress().State)
			}
		})
	}
}

// TestOptionsFit: the compiler says which option fits where.
func TestOptionsFit(t *testing.T) {
	for name, c := range map[string]struct {
		option                        any
		source, operator, async, sink bool
	}{
		"Name":                  {Name("a"), true, true, true, true},
		"Parallel":              {Parallel(1), true, true, true, true},
		"BoundedOutOfOrderness": {BoundedOutOfOrderness(1), true, false, false, false},
		"Monotonous":            {Monotonous(), true, false, false, false},
		"IdleAfter":             {IdleAfter(1), true, false, false, false},
		"WithSerializer":        {WithSerializer[int](nil), false, false, true, false},
	} {
		_, source := c.option.(SourceOption)
		_, operator := c.option.(OperatorOption)
		_, asynchronous := c.option.(AsyncOption)
		_, sink := c.option.(SinkOption)
		if source != c.source || operator != c.operator || asynchronous != c.async || sink != c.sink {
			t.Errorf("%s fits a source: %v, an operator: %v, Async: %v, a sink: %v", name, source, operator, asynchronous, sink)
		}
	}
}

// TestRunTwice: a job runs once.
func TestRunTwice(t *testing.T) {
	j := New("once", Config{})
	Collect(From(j, FromSlice(numbers(3))))
	if err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := j.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "it was started before") {
		t.Errorf("the second run ended with %v", err)
	}
}
