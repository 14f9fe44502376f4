package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/job/local"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// keepPast makes TestCheckpointsOfThePast write checkpoints into testdata (see the README there).
var keepPast = flag.String("keep-past", "", "the commit for which checkpoints are kept in testdata/past")

// past is a job that is broken off and resumed. Today's code runs both parts, and also resumes what
// the code of an earlier commit left. The paths in the checkpoints are valid in every folder: they
// begin at the working folder, by a name for it that every process has.
type past struct {
	name string
	// leave writes the job file and the input, and leaves a run.
	leave func(s *shell)
	// resume continues the run and checks the results.
	resume func(s *shell)
}

const (
	pastJob = "/proc/self/cwd/job/job.yaml"
	// pastMany is the number of a job's records: the fewest with which it can be broken off
	// midway.
	pastMany = 600
)

var pasts = []past{
	{"ordered", leaveOrdered, func(s *shell) {
		s.quick()
		s.run(exitOK, "run", "--resume", pastJob)
		_, want := numbers(pastMany)
		s.same(s.output(), want)
	}},
	{"ordered-from", leaveOrdered, func(s *shell) {
		s.quick()
		s.run(exitOK, "run", "--from", s.oldest("job/out/.checkpoints"), pastJob)
		_, want := numbers(pastMany)
		s.same(s.output(), want)
	}},
	{"returned", leaveReturned, func(s *shell) {
		s.quick()
		s.run(exitOK, "run", "--resume", pastJob)
		_, want := numbers(pastMany)
		s.same(s.output(), want)
	}},
	{"begun", leaveBegun, func(s *shell) {
		s.quick()
		s.run(exitOK, "run", "--resume", pastJob)
		_, want := numbers(pastMany)
		s.same(s.output(), want)
	}},
	{"unordered", func(s *shell) {
		lettered(s, "unordered")
		leaveFlight(s)
	}, resumeFlight},
	{"keyed", func(s *shell) {
		lettered(s, "keyed\n  key: {field: n}\n  barrier: snapshot")
		// With less room all records would wait in front of the operator, and a barrier behind
		// them.
		s.write("job.yaml", strings.Replace(s.read("job.yaml"), "capacity: 16", "capacity: 1000\n  max_batch: 16", 1))
		leaveFlight(s)
	}, resumeFlight},
	{"pending", leavePending, resumeFlight},
	{"finished", leaveFinished, func(s *shell) {
		s.contains("stdout", s.run(exitOK, "run", "--resume", pastJob).out, "the run was already finished")
		resumeFlight(s)
		// The next run takes the place of what is there.
		in, want := numbers(3)
		s.write("in.jsonl", in)
		s.run(exitOK, "run", pastJob)
		s.same(s.output(), want)
		s.same(s.cat("failed"), "")
	}},
	{"stdout", leaveStdout, resumeStdout},
	{"kafka-to-files", leaveKafkaToFiles, resumeKafkaToFiles},
	{"files-to-kafka", leaveFilesToKafka, resumeFilesToKafka},
	{"kafka-to-kafka", leaveKafkaToKafka, resumeKafkaToKafka},
}

func TestCheckpointsOfThePast(t *testing.T) {
	kept, err := filepath.Abs("testdata/past")
	if err != nil {
		t.Fatal(err)
	}
	commits, err := os.ReadDir(kept)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pasts {
		t.Run("today/"+p.name, func(t *testing.T) {
			s := pastShell(t)
			if err := os.Mkdir(s.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			p.leave(s)
			if *keepPast != "" {
				if err := os.CopyFS(filepath.Join(kept, *keepPast, p.name), os.DirFS(s.dir)); err != nil {
					t.Fatal(err)
				}
			}
			p.resume(s)
		})
	}
	for _, c := range commits {
		if !c.IsDir() {
			continue
		}
		for _, p := range pasts {
			t.Run(c.Name()+"/"+p.name, func(t *testing.T) {
				s := pastShell(t)
				if err := os.CopyFS(s.dir, os.DirFS(filepath.Join(kept, c.Name(), p.name))); err != nil {
					t.Fatal(err)
				}
				p.resume(s)
			})
		}
	}
}

// pastShell is a shell that stands beside the job's folder.
func pastShell(t *testing.T) *shell {
	dir := t.TempDir()
	t.Chdir(dir)
	return &shell{T: t, dir: filepath.Join(dir, "job")}
}

func (s *shell) same(got, want string) {
	s.Helper()
	if got != want {
		s.Errorf("the results are not those of an undisturbed run: %d lines, want %d\n%s", strings.Count(got, "\n"), strings.Count(want, "\n"), got)
	}
	s.leftovers()
}

// quick makes the job's model a quick one.
func (s *shell) quick() {
	s.Helper()
	s.write("job.yaml", strings.NewReplacer("&latency=0s+3ms", "", "&fault=hang@all", "", "interval: 10ms", "interval: 1h").Replace(s.read("job.yaml")))
}

// oldest names the oldest checkpoint of a folder.
func (s *shell) oldest(dir string) string {
	s.Helper()
	store, err := checkpoint.Open(dir, checkpoint.Options{ReadOnly: true})
	if err != nil {
		s.Fatal(err)
	}
	all, err := store.List()
	if err != nil || len(all) == 0 {
		s.Fatal(all, err)
	}
	return fmt.Sprint(all[0].ID)
}

// newest is the newest checkpoint of a folder.
func (s *shell) newest(dir string) *checkpoint.Snapshot {
	s.Helper()
	store, err := checkpoint.Open(dir, checkpoint.Options{ReadOnly: true})
	if err != nil {
		s.Fatal(err)
	}
	snap, err := store.Newest(s.Context())
	if err != nil || snap == nil {
		s.Fatal(snap, err)
	}
	return snap
}

// section is the size of an operator's state in a checkpoint.
func (s *shell) section(snap *checkpoint.Snapshot, operator string) (size int) {
	s.Helper()
	for _, sec := range snap.Sections {
		for _, p := range sec.Parts {
			if sec.Operator == operator {
				size += len(p.Data)
			}
		}
	}
	return size
}

// at sends a signal when a checkpoint is complete.
func at(checkpoint int) []step {
	return []step{{fmt.Sprintf("checkpoint completed\" checkpoint=%d", checkpoint), syscall.SIGTERM, nil}}
}

func leaveOrdered(s *shell) {
	in, _ := numbers(pastMany)
	s.write("in.jsonl", in)
	s.write("job.yaml", doubles("checkpoint: {interval: 10ms}\n"+slowSidecar))
	s.runUntil(143, at(5), "run", pastJob, "--log-level=debug")
	if s.newest("job/out/.checkpoints").Finished {
		s.Fatal("the job was not broken off")
	}
}

// leaveReturned leaves a run that went back to an older checkpoint and wrote none since.
func leaveReturned(s *shell) {
	leaveOrdered(s)
	slow := s.read("job.yaml")
	s.write("job.yaml", doubles(hangs))
	s.runUntil(143, []step{{"a checkpoint failed", syscall.SIGTERM, nil}, {"stopping with a checkpoint", syscall.SIGINT, nil}},
		"run", "--from", s.oldest("job/out/.checkpoints"), pastJob)
	s.write("job.yaml", slow)
}

// leaveBegun leaves a run that has no results yet.
func leaveBegun(s *shell) {
	in, _ := numbers(pastMany)
	s.write("in.jsonl", in)
	s.write("job.yaml", doubles(hangs))
	s.runUntil(143, []step{{"a checkpoint failed", syscall.SIGTERM, nil}, {"stopping with a checkpoint", syscall.SIGINT, nil}}, "run", pastJob)
}

// lettered writes a job whose records fail here and there, and is slow.
func lettered(s *shell, order string) {
	in, _ := numbers(pastMany)
	s.write("in.jsonl", in+"{\"n\" : \"two\",  \"why\":1.50}\n\xff<\n")
	faults := "&latency=0s+3ms"
	for n := 3; n < pastMany; n += 50 {
		faults += fmt.Sprintf("&fault=bad@row=%d", n)
	}
	s.write("job.yaml", failing("  order: "+order+"\n  on_error: {record: dead_letter}", faults,
		lettersSection+"restart: {strategy: none}\ncheckpoint: {interval: 10ms}\n"))
}

// leaveFlight leaves a run with records in flight in its checkpoint, results and dead letters.
func leaveFlight(s *shell) {
	failed := func() bool { return s.cat("failed") != "" }
	s.runUntil(143, []step{{"checkpoint completed", syscall.SIGTERM, failed}}, "run", pastJob, "--log-level=debug")
	snap := s.newest("job/out/.checkpoints")
	if snap.Finished || s.section(snap, local.InferName) == 0 || s.cat("failed") == "" {
		s.Fatalf("the checkpoint holds no records, or there are no dead letters: %+v", snap)
	}
}

// resumeFlight ends what leaveFlight, leavePending and leaveFinished left.
func resumeFlight(s *shell) {
	s.quick()
	s.run(exitOK, "run", "--resume", pastJob)
	in, want := numbers(pastMany)
	in += "{\"n\" : \"two\",  \"why\":1.50}\n\xff<\n"
	var bad []int
	for n := 3; n < pastMany; n += 50 {
		bad = append(bad, n)
	}
	if strings.Contains(s.read("job.yaml"), "order: ordered") {
		s.same(s.output(), without(want, bad...))
	} else {
		s.same(sorted(s.output()), sorted(without(want, bad...)))
	}
	if letters := s.letters(in); len(letters) != len(bad)+2 {
		s.Errorf("there are %d dead letters, want %d", len(letters), len(bad)+2)
	}
	s.balance("job/out/.checkpoints", pastMany+2, pastMany-len(bad), 0, len(bad)+2, pastMany-len(bad))
}

// leavePending leaves a run whose newest checkpoint is complete, and its results and dead letters
// have not been published: a stranger's file is in their way, as a crash between the two would be.
func leavePending(s *shell) {
	lettered(s, "ordered")
	last := filepath.Join(s.dir, "out", "part-00003-00000.jsonl")
	inTheWay := func() bool {
		if err := os.WriteFile(last, []byte("a stranger's"), 0o600); err != nil {
			s.Error(err)
		}
		return false // no signal
	}
	step := []step{{"checkpoint completed\" checkpoint=1", 0, inTheWay}}
	s.contains("stderr", s.runUntil(exitFailed, step, "run", pastJob, "--log-level=debug").errors, "exists and this job did not write it")
	if err := os.Remove(last); err != nil {
		s.Fatal(err)
	}
	for _, dir := range []string{"out", "failed"} {
		if all, err := filepath.Glob(filepath.Join(s.dir, dir, ".pending-*")); err != nil || dir == "out" && len(all) == 0 {
			s.Fatalf("nothing in %s is pending: %v", dir, err)
		}
	}
}

func leaveFinished(s *shell) {
	lettered(s, "ordered")
	s.run(exitOK, "run", pastJob)
}

// runFor is run with a standard output that is kept.
func (s *shell) runFor(code int, stdout *bytes.Buffer, steps []step, args ...string) {
	s.Helper()
	errs := &console{steps: steps, signals: make(chan os.Signal, len(steps))}
	got := program.Run(&cli.World{Stdout: stdout, Stderr: errs, Signals: errs.signals}, args)
	s.check(code, result{got, stdout.String(), errs.String()}, args)
}

func leaveStdout(s *shell) {
	in, _ := numbers(pastMany)
	s.write("in.jsonl", in)
	s.write("job.yaml", strings.Replace(doubles("checkpoint: {interval: 10ms, dir: state}\n"+slowSidecar), "{file: {path: out}}", "{stdout: {}}", 1))
	var out bytes.Buffer
	s.runFor(143, &out, at(3), "run", pastJob, "--log-level=debug")
	s.write("printed", out.String())
}

// resumeStdout: the lines of the last checkpoint are written again, and then the others.
func resumeStdout(s *shell) {
	s.quick()
	var out bytes.Buffer
	s.runFor(exitOK, &out, nil, "run", "--resume", pastJob)
	printed := map[string]int{}
	for line := range strings.Lines(s.read("printed") + out.String()) {
		printed[line]++
	}
	twice := 0
	_, want := numbers(pastMany)
	for line := range strings.Lines(want) {
		if printed[line] == 0 {
			s.Errorf("neither process printed %s", line)
		}
		twice += printed[line] - 1
	}
	if last := s.section(s.newest("job/state"), local.SinkName); len(printed) != pastMany || twice*len("{\"n\": 100,\"twice\":200}\n") > 2*last {
		s.Errorf("%d different lines, and %d are printed twice", len(printed), twice)
	}
}

// topicJob is a job whose source or sink is Kafka.
func topicJob(brokers, source, sink string) string {
	return fmt.Sprintf(`name: topics
source: {%s}
infer: {model: double, capacity: 16, inputs: {x: {field: n}}, outputs: {y: {field: twice}}}
sink: {%s}
checkpoint: {interval: 10ms, dir: state}
sidecar: {models: {double: 'mock:double?input=x:INT64[1]&latency=0s+3ms'}}
`, strings.ReplaceAll(source, "BROKERS", fmt.Sprintf("%q", brokers)), strings.ReplaceAll(sink, "BROKERS", fmt.Sprintf("%q", brokers)))
}

// fillIn writes the numbers from one to another into the two partitions of the topic in.
func (s *kafkaShell) fillIn(from, to int) {
	s.Helper()
	var all []*kgo.Record
	for n := from; n < to; n++ {
		all = append(all, &kgo.Record{Topic: "in", Partition: int32(n % 2), Value: fmt.Appendf(nil, "{\"n\": %d}", n)})
	}
	s.produce(all...)
}

func leaveKafkaToFiles(s *shell) {
	k := brokerFor(s, 2, "in")
	k.fillIn(0, pastMany)
	s.write("job.yaml", topicJob(k.brokers, "kafka: {brokers: BROKERS, topic: in, start: earliest}", "file: {path: out}"))
	s.runUntil(143, at(5), "run", pastJob, "--log-level=debug")
}

func resumeKafkaToFiles(s *shell) {
	k, _ := inputFor(s, "in")
	s.quick()
	s.write("job.yaml", strings.Replace(topicJob(k.brokers, "kafka: {brokers: BROKERS, topic: in, start: earliest}", "file: {path: out}"), "&latency=0s+3ms", "", 1))
	k.runWhile(func() {
		deadline := time.Now().Add(time.Minute)
		for strings.Count(s.output(), "\n") < pastMany && time.Now().Before(deadline) {
			<-time.After(10 * time.Millisecond)
		}
	}, "run", "--resume", pastJob)
	_, want := numbers(pastMany)
	s.same(sorted(s.output()), sorted(want))
}

func leaveFilesToKafka(s *shell) {
	k := brokerFor(s, 1, "out")
	in, _ := numbers(pastMany)
	s.write("in.jsonl", in)
	s.write("job.yaml", topicJob(k.brokers, "file: {path: in.jsonl, split_size: 2KiB}", "kafka: {brokers: BROKERS, topic: out}"))
	s.runUntil(143, at(5), "run", pastJob, "--log-level=debug")
}

// resumeFilesToKafka: the records after the checkpoint arrive, in order.
func resumeFilesToKafka(s *shell) {
	k := brokerFor(s, 1, "out")
	s.write("job.yaml", strings.Replace(topicJob(k.brokers, "file: {path: in.jsonl, split_size: 2KiB}", "kafka: {brokers: BROKERS, topic: out}"), "&latency=0s+3ms", "", 1))
	snap := s.newest("job/state")
	at := slices.IndexFunc(snap.Counters, func(c checkpoint.Counter) bool { return c.Name == "emitted" })
	s.run(exitOK, "run", "--resume", pastJob)
	_, want := numbers(pastMany)
	rest := strings.SplitAfter(want, "\n")[snap.Counters[at].Value:]
	var got strings.Builder
	for _, r := range k.consume("out", len(rest)-1) {
		got.Write(append(r.Value, '\n'))
	}
	s.same(got.String(), strings.Join(rest, ""))
}

// groupState is what the brokers keep of a job from Kafka to Kafka.
type groupState struct {
	Partition int32
	At        int64
	Note      string
}

const pipeSource, pipeSink = "kafka: {brokers: BROKERS, topic: in, group: g}", "kafka: {brokers: BROKERS, topic: out}"

func pipeJob(k *kafkaShell) string {
	return strings.Replace(topicJob(k.brokers, pipeSource, pipeSink), ", dir: state", "", 1)
}

func leaveKafkaToKafka(s *shell) {
	k := brokerFor(s, 2, "in", "out")
	k.fillIn(0, pastMany)
	s.write("job.yaml", pipeJob(k))
	s.runUntil(143, at(5), "run", pastJob, "--log-level=debug")
	cl := k.client()
	defer cl.Close()
	all, err := kadm.NewClient(cl).FetchOffsets(s.Context(), "g")
	if err != nil {
		s.Fatal(err)
	}
	var states []groupState
	for _, o := range all.Sorted() {
		states = append(states, groupState{o.Partition, o.At, o.Metadata})
	}
	text, err := json.MarshalIndent(states, "", "\t")
	if err != nil || len(states) == 0 {
		s.Fatal(states, err)
	}
	s.write("group.json", string(text)+"\n")
}

// resumeKafkaToKafka: only the records after the group's offsets are answered.
func resumeKafkaToKafka(s *shell) {
	k, same := inputFor(s, "in", "out")
	var states []groupState
	if err := json.Unmarshal([]byte(s.read("group.json")), &states); err != nil {
		s.Fatal(err)
	}
	cl := k.client()
	defer cl.Close()
	var offsets kadm.Offsets
	before := map[int]int64{}
	for _, o := range states {
		offsets.Add(kadm.Offset{Topic: "in", Partition: o.Partition, At: o.At, LeaderEpoch: -1, Metadata: o.Note})
		before[int(o.Partition)] = o.At
	}
	if same { // the group has them, and its results are there
		clear(before)
	} else if err := kadm.NewClient(cl).CommitAllOffsets(s.Context(), "g", offsets); err != nil {
		s.Fatal(err)
	}
	_, all := numbers(pastMany)
	var want []string
	for n, line := range strings.SplitAfter(strings.TrimSuffix(all, "\n"), "\n") {
		if int64(n/2) >= before[n%2] {
			want = append(want, strings.TrimSuffix(line, "\n"))
		}
	}
	s.write("job.yaml", strings.Replace(pipeJob(k), "&latency=0s+3ms", "", 1))
	var got []string
	k.runWhile(func() {
		for _, r := range k.consume("out", len(want)) {
			got = append(got, string(r.Value))
		}
	}, "run", pastJob)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Errorf("the results are %d, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
}

// brokerFor is a shell's own broker.
func brokerFor(s *shell, partitions int32, topics ...string) *kafkaShell {
	s.Helper()
	s.brokers = startBroker(s.T, partitions, topics...)
	return &kafkaShell{s, s.brokers}
}

// inputFor has the topic in with its numbers. A checkpoint knows a topic that it has read by its
// id, so one of this test is read where it is. Older checkpoints know it by its name alone.
func inputFor(s *shell, topics ...string) (k *kafkaShell, same bool) {
	s.Helper()
	if s.brokers != "" {
		return &kafkaShell{s, s.brokers}, true
	}
	k = brokerFor(s, 2, topics...)
	k.fillIn(0, pastMany)
	return k, false
}
