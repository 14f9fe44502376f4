package jobfile

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/flink/submit"
	"github.com/tensorferry/tensorferry/job"
)

// These are jobs, but for further keys of infer and sections.
const (
	fromFiles    = "name: digits\nsource: {file: {path: in.jsonl}}\nsink: {file: {path: out}}\ninfer:\n  endpoint: unix:///run/nobody.sock\n  model: m\n"
	fromKafka    = "name: digits\nsource: {kafka: {brokers: \"h:1\", topic: in}}\nsink: {file: {path: out}}\ninfer:\n  endpoint: unix:///run/nobody.sock\n  model: m\n"
	pipe         = "name: digits\nsource: {kafka: {brokers: \"h:1\", topic: in, group: g}}\nsink: {kafka: {topic: out}}\ninfer:\n  endpoint: unix:///run/nobody.sock\n  model: m\n"
	filesToTopic = "name: digits\nsource: {file: {path: in.jsonl}}\nsink: {kafka: {topic: out, brokers: \"h:1\"}}\ninfer:\n  endpoint: unix:///run/nobody.sock\n  model: m\n"
	brought      = "name: digits\nsource: {file: {path: in.jsonl}}\nsink: {file: {path: out}}\ninfer:\n  model: m\n"
)

// faults writes what Check finds without the folder's name.
func faults(spec *job.Spec) string {
	err := errors.Join(Check(spec)...)
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), filepath.Dir(spec.File)+"/", "")
}

func TestCheck(t *testing.T) {
	swap := func(text, old, by string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("no %q", old)
		}
		return strings.Replace(text, old, by, 1)
	}
	for name, c := range map[string]struct{ text, want string }{
		"files":          {fromFiles, ""},
		"kafka":          {fromKafka, ""},
		"kafka to kafka": {pipe, ""},
		"ordered":        {fromFiles + "  order: ordered\n", ""},
		"unordered":      {fromFiles + "  order: unordered\n", ""},
		"drain":          {fromFiles + "  barrier: drain\n", ""},
		"sidecar":        {brought + "sidecar: {models: {m: 'mock:double'}}\n", ""},
		"traces":         {fromFiles + "trace: {endpoint: \"h:4317\"}\n", ""},
		"stdin":          {swap(fromFiles, "file: {path: in.jsonl}", "stdin: {}"), "job.yaml:2:10: source.stdin: want files that every worker can read"},
		"stdout":         {swap(fromFiles, "file: {path: out}", "stdout: {}"), "job.yaml:3:8: sink.stdout: want a folder that every worker can write to"},
		"consumed":       {swap(fromFiles, "file: {path: out}", "file: {path: out, consumed: true}"), "sink.file.consumed: want no consumed on Flink"},
		"keyed":          {fromFiles + "  order: keyed\n  key: {field: a}\n", "job.yaml:7:3: infer.order: want ordered or unordered on Flink"},
		"snapshot":       {fromFiles + "  barrier: snapshot\n", "job.yaml:7:3: infer.barrier: want drain on Flink"},
		"drain limit":    {fromFiles + "  drain_limit: 5s\n", "job.yaml:7:3: infer.drain_limit: want no drain_limit on Flink"},
		"watermark":      {swap(fromKafka, "topic: in", "topic: in, watermark: 5s"), "source.kafka.watermark: want no watermark on Flink"},
		"pattern":        {swap(fromKafka, "topic: in", "pattern: 'a('"), "job.yaml:2:10: source.kafka: kafka: the pattern of topics: error parsing regexp"},
		"interval":       {fromKafka + "checkpoint: {interval: 1ms}\n", "job.yaml:7:14: checkpoint.interval: want 10ms or more on Flink, found 1ms"},
		"timeout":        {fromKafka + "checkpoint: {timeout: 1ms}\n", "job.yaml:7:14: checkpoint.timeout: want 10ms or more on Flink, found 1ms"},
		"endpoint":       {swap(fromFiles, "unix:///run/nobody.sock", "nonsense"), "job.yaml:5:3: infer.endpoint: "},
		"model file":     {brought + "sidecar: {models: {m: absent.onnx}}\n", "job.yaml:6:20: sidecar.models.m: no such file: absent.onnx"},
		"backend":        {brought + "sidecar: {models: {m: 'nothing:x'}}\n", "job.yaml:6:20: sidecar.models.m: "},
	} {
		t.Run(name, func(t *testing.T) {
			got := faults(load(t, c.text))
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("faults are\n%s\nwant %q", got, c.want)
			}
		})
	}
	// All at once.
	all := swap(swap(fromFiles, "file: {path: in.jsonl}", "stdin: {}"), "file: {path: out}", "stdout: {}") + "  order: keyed\n  key: {field: a}\n"
	if got := faults(load(t, all)); strings.Count(got, "\n") != 2 {
		t.Errorf("the faults are\n%s", got)
	}
}

func TestNotes(t *testing.T) {
	const (
		files    = "the results show which splits are done"
		once     = "at least once"
		cluster  = "checkpoint.dir, retain and tolerable_failures are not used"
		group    = "source.kafka.group, instance, session_timeout and transaction_timeout are not used"
		trace    = "trace is not used"
		rate     = "failure-rate cannot travel"
		fixed    = "becomes a fixed delay of 2s"
		restarts = "a permanent failure restarts the job"
		grows    = "job.yaml:2:10: source.kafka: reading topics through Beam fills the TaskManager's heap"
	)
	every := []string{files, once, cluster, group, trace, rate, fixed, restarts, grows}
	for _, c := range []struct {
		text string
		want []string
	}{
		{fromFiles, []string{files, restarts}},
		{fromFiles + "restart: {strategy: none}\n", []string{files}},
		{fromFiles + "trace: {endpoint: \"h:4317\"}\n", []string{files, trace, restarts}},
		{fromKafka, []string{grows, once, restarts}},
		{fromKafka + "checkpoint: {interval: 1s, dir: cp}\nrestart: {strategy: none}\n", []string{grows, once, cluster}},
		{fromKafka + "restart: {strategy: failure-rate, max_failures: 2, interval: 1m}\n", []string{grows, once, rate, restarts}},
		{fromKafka + "restart: {strategy: exponential-delay, initial_delay: 2s}\n", []string{grows, once, fixed, restarts}},
		{pipe, []string{grows, once, group, restarts}},
	} {
		notes := strings.Join(Notes(load(t, c.text)), "\n")
		for _, n := range every {
			want := false
			for _, w := range c.want {
				want = want || w == n
			}
			if strings.Contains(notes, n) != want {
				t.Errorf("of\n%s\nthe notes are\n%s\nwant %q in them: %v", c.text, notes, n, want)
			}
		}
	}
}

// What grows is what Beam keeps for each resumption of a splittable DoFn: the jobs that are said to
// grow are those that have one.
func TestGrowingState(t *testing.T) {
	b := newBroker(t, 1, "in", "out")
	for _, text := range []string{fromFiles, filesToTopic, fromKafka, pipe, doubling} {
		dir := t.TempDir()
		put(t, filepath.Join(dir, "in.jsonl"), "{}\n")
		spec := loadIn(t, dir, strings.NewReplacer("h:1", b.address(), "\n%s", "").Replace(text))
		edges, _, err := build(t, spec, false).Build()
		if err != nil {
			t.Fatal(err)
		}
		splittable := 0
		for _, e := range edges {
			if e.DoFn != nil && e.DoFn.IsSplittable() {
				splittable++
			}
		}
		if err := GrowingState(spec); (err != nil) != (splittable > 0) {
			t.Errorf("%d splittable DoFns, and the state grows: %v; of\n%s", splittable, err, text)
		}
	}
}

func TestOptions(t *testing.T) {
	bounded := submit.Options{Name: "digits", Parallelism: 1, Bounded: true, MaxBundleSize: 1, Restarts: submit.NoRestart}
	live := submit.Options{Name: "digits", Parallelism: 1, MaxBundleTime: liveBundle, CheckpointInterval: time.Second, Restarts: math.MaxInt32, RestartDelay: time.Second}
	with := func(o submit.Options, change func(*submit.Options)) submit.Options {
		change(&o)
		return o
	}
	restarts := func(n int, delay time.Duration) func(*submit.Options) {
		return func(o *submit.Options) { o.Restarts, o.RestartDelay = n, delay }
	}
	for text, want := range map[string]submit.Options{
		fromFiles:                      bounded,
		fromFiles + "parallelism: 3\n": with(bounded, func(o *submit.Options) { o.Parallelism = 3 }),
		fromFiles + "checkpoint: {interval: 2s}\n":             with(bounded, restarts(math.MaxInt32, time.Second)),
		fromFiles + "restart: {strategy: none}\n":              bounded,
		fromFiles + "restart: {strategy: fixed-delay}\n":       with(bounded, restarts(1, time.Second)),
		fromFiles + "restart: {strategy: exponential-delay}\n": with(bounded, restarts(math.MaxInt32, time.Second)),
		fromKafka: live,
		fromKafka + "checkpoint: {interval: 2s, timeout: 1m, min_pause: 10ms}\n": with(live, func(o *submit.Options) {
			o.CheckpointInterval, o.CheckpointTimeout, o.CheckpointPause = 2*time.Second, time.Minute, 10*time.Millisecond
		}),
		fromKafka + "restart: {strategy: none}\n":                                 with(live, restarts(submit.NoRestart, 0)),
		fromKafka + "restart: {strategy: fixed-delay, attempts: 5, delay: 3s}\n":  with(live, restarts(5, 3*time.Second)),
		fromKafka + "restart: {strategy: failure-rate, max_failures: 2}\n":        with(live, restarts(0, 0)),
		fromKafka + "restart: {strategy: exponential-delay, initial_delay: 2s}\n": with(live, restarts(math.MaxInt32, 2*time.Second)),
		fromKafka + "restart: {strategy: exponential-delay, attempts: 4}\n":       with(live, restarts(4, time.Second)),
	} {
		var got submit.Options
		Options(load(t, text), &got)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("of\n%s\nthe options are\n%+v\nwant\n%+v", text, got, want)
		}
	}
}

// What travels to the workers says the same, but for what is of no use there.
func TestShip(t *testing.T) {
	spec := load(t, fromFiles+"  timeout: 0\n  barrier: drain\n  drain_limit: 0s\n  max_bytes: 0\n  retry: {max: 0, jitter: 0}\n  outputs: {y: {field: z}}\n"+
		"  on_error: {timeout: {fallback: {z: '<&>'}}}\ntrace: {endpoint: \"h:4317\", headers: {authorization: secret}}\n")
	text := textOf(t, spec)
	if strings.Contains(text, "secret") {
		t.Error("a secret travels")
	}
	got, err := arrived(text)
	if err != nil {
		t.Fatal(err)
	}
	i := &got.Spec.Infer
	if i.Timeout != job.Off || i.MaxBytes != int64(job.Off) || i.Retry.Max != job.Off || i.Retry.Jitter == nil || string(i.OnError["timeout"].Fields[0].Value) != `"<&>"` {
		t.Errorf("it is %+v", i)
	}
	if _, err := arrived("{"); err == nil {
		t.Error("half a job is one")
	}
	if _, err := os.Stat(spec.Sink.File.Path); err == nil {
		t.Error("a folder is there before the job is built")
	}
}
