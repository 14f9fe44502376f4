package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/internal/cli"
)

// kafkaShell is a shell with a fake broker on loopback.
type kafkaShell struct {
	*shell
	brokers string
}

func newKafkaShell(t *testing.T, partitions int32, topics ...string) *kafkaShell {
	return &kafkaShell{newShell(t), startBroker(t, partitions, topics...)}
}

// startBroker returns the address of a fake broker.
func startBroker(t *testing.T, partitions int32, topics ...string) string {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	return fake.ListenAddrs()[0]
}

func (s *kafkaShell) client(opts ...kgo.Opt) *kgo.Client {
	s.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(s.brokers)}, opts...)...)
	if err != nil {
		s.Fatal(err)
	}
	return cl
}

func (s *kafkaShell) produce(records ...*kgo.Record) {
	s.Helper()
	cl := s.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	if err := cl.ProduceSync(context.Background(), records...).FirstErr(); err != nil {
		s.Fatal(err)
	}
}

// consume returns the first n committed records of a topic; fewer if no more come within a minute.
func (s *kafkaShell) consume(topic string, n int) (all []*kgo.Record) {
	s.Helper()
	cl := s.client(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for len(all) < n && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { all = append(all, r) })
	}
	return all
}

// runWhile runs a command that is interrupted when until returns.
func (s *kafkaShell) runWhile(until func(), args ...string) result {
	s.Helper()
	errs := &console{signals: make(chan os.Signal, 1)}
	var out bytes.Buffer
	done := make(chan int, 1)
	go func() { done <- program.Run(&cli.World{Stdout: &out, Stderr: errs, Signals: errs.signals}, args) }()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		until()
	}()
	var code int
	select {
	case code = <-done:
		s.Fatalf("the command ended with %d:\n%s", code, errs)
	case <-finished:
		errs.signals <- syscall.SIGINT
		code = <-done
	}
	return s.check(130, result{code, out.String(), errs.String()}, args)
}

const toKafka = `name: pipe
parallelism: 2
source: {kafka: {brokers: %[1]q, topic: in, group: g}}
infer:
  model: double
  on_error: {record: dead_letter}
  outputs: {y: {field: z}}
sink: {kafka: {topic: out, partition: same, compression: lz4}}
dead_letter: {kafka: {topic: failed}}
checkpoint: {interval: 50ms}
sidecar: {models: {double: "mock:double?input=x:FP32[1]"}}
`

// TestFromKafkaToKafka: results have the records' keys, and keep partitions and order. Bad records
// go to the topic of the dead letters. The next start continues after the last offset.
func TestFromKafkaToKafka(t *testing.T) {
	s := newKafkaShell(t, 3, "in", "out", "failed")
	s.write("job.yaml", fmt.Sprintf(toKafka, s.brokers))
	fill := func(from, to int) {
		var rs []*kgo.Record
		for i := from; i < to; i++ {
			r := &kgo.Record{Topic: "in", Partition: int32(i % 3), Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, `{"id":%d,"x":[%d]}`, i, i)}
			switch i % 100 {
			case 7:
				r.Value = []byte("not json")
			case 8:
				r.Value = nil
			}
			rs = append(rs, r)
		}
		s.produce(rs...)
	}
	fill(0, 600)
	r := s.runWhile(func() { s.consume("out", 588); s.consume("failed", 12) }, "run", "job.yaml")
	s.contains("stderr", r.errors, `the next start continues at the offsets of the group "g"`)
	s.contains("stdout", r.out, "600 records read, 588 results in the topic out", "12 records failed and are in the topic failed")
	fill(600, 900)
	s.runWhile(func() { s.consume("out", 882) }, "run", "job.yaml")
	next := map[int32]int{0: 0, 1: 1, 2: 2}
	for _, r := range s.consume("out", 882) {
		for bad := true; bad; {
			if bad = next[r.Partition]%100 == 7 || next[r.Partition]%100 == 8; bad {
				next[r.Partition] += 3
			}
		}
		i := next[r.Partition]
		next[r.Partition] += 3
		if want := fmt.Sprintf(`{"id":%d,"x":[%d],"z":%d}`, i, i, 2*i); string(r.Value) != want || string(r.Key) != fmt.Sprintf("k%d", i) {
			t.Fatalf("partition %d, offset %d: %s: %s, want %s", r.Partition, r.Offset, r.Key, r.Value, want)
		}
	}
	letters := s.consume("failed", 18)
	if len(letters) != 18 {
		t.Fatalf("%d dead letters", len(letters))
	}
	for _, r := range letters {
		var l struct{ Class, Text, Error string }
		if err := json.Unmarshal(r.Value, &l); err != nil || l.Class != "record" || l.Text != "not json" && l.Text != "" {
			t.Errorf("%s: %v", r.Value, err)
		}
	}
	for _, flag := range []string{"--resume", "--fresh"} {
		s.contains("stderr", s.run(2, "run", flag, "job.yaml").errors, "set the offsets of the group")
	}
}

// TestFromKafkaToFiles: offsets are in the checkpoints, and a resumed run has every record once.
func TestFromKafkaToFiles(t *testing.T) {
	s := newKafkaShell(t, 2, "in")
	s.write("job.yaml", fmt.Sprintf(`name: files
source: {kafka: {brokers: [%q], pattern: "i.*", discover: 100ms}}
infer: {model: double, outputs: {y: {field: z}}}
sink: {file: {path: out}}
checkpoint: {interval: 50ms}
sidecar: {models: {double: "mock:double?input=x:FP32[1]"}}
`, s.brokers))
	n := 0
	for round, args := range [][]string{{"run", "job.yaml"}, {"run", "--resume", "job.yaml"}} {
		var records []*kgo.Record
		for range 300 {
			records = append(records, &kgo.Record{Topic: "in", Partition: int32(n % 2), Value: fmt.Appendf(nil, `{"id":%d,"x":[1]}`, n)})
			n++
		}
		s.produce(records...)
		s.runWhile(func() {
			deadline := time.Now().Add(time.Minute)
			for strings.Count(s.output(), "\n") < n && time.Now().Before(deadline) {
				<-time.After(10 * time.Millisecond)
			}
		}, args...)
		if got := strings.Count(s.output(), "\n"); got != n {
			t.Errorf("round %d: %d lines of %d", round, got, n)
		}
	}
	seen := map[string]int{}
	for line := range strings.Lines(s.output()) {
		seen[line]++
	}
	if len(seen) != n {
		t.Errorf("%d different lines of %d", len(seen), n)
	}
}

// TestFromFilesToKafka: every result arrives, with its key from a field, also as a raw value.
func TestFromFilesToKafka(t *testing.T) {
	s := newKafkaShell(t, 2, "out", "values")
	var in strings.Builder
	for i := range 200 {
		fmt.Fprintf(&in, "{\"id\":%d,\"x\":[%d],\"who\":{\"name\":\"n%d\"}}\n", i, i, i%5)
	}
	s.write("in.jsonl", in.String())
	for topic, form := range map[string]string{"out": "key: {field: who.name}", "values": "key: {field: who.name}, format: raw, value: {field: id}"} {
		s.write("job.yaml", fmt.Sprintf(`name: keyed
source: {file: {path: in.jsonl}}
infer: {model: double, outputs: {y: {field: z}}}
sink: {kafka: {brokers: %q, topic: %s, %s}}
sidecar: {models: {double: "mock:double?input=x:FP32[1]"}}
`, s.brokers, topic, form))
		s.run(0, "run", "job.yaml")
		partitions := map[string]int32{}
		seen := map[string]bool{}
		for _, r := range s.consume(topic, 200) {
			key := string(r.Key)
			if p, ok := partitions[key]; ok && p != r.Partition {
				t.Errorf("the key %s is in the partitions %d and %d", key, p, r.Partition)
			}
			partitions[key] = r.Partition
			seen[string(r.Value)] = true
		}
		if len(seen) != 200 || len(partitions) != 5 || !seen[map[string]string{"out": `{"id":7,"x":[7],"who":{"name":"n2"},"z":14}`, "values": "7"}[topic]] {
			t.Errorf("%s: %d values, %d keys", topic, len(seen), len(partitions))
		}
	}
}

// TestKafkaMistakes: each mistake is reported with its place in the job file.
func TestKafkaMistakes(t *testing.T) {
	s := newKafkaShell(t, 1, "in", "out", "failed")
	for source, want := range map[string]string{
		"topic: nosuch, group: g": `job.yaml:3:10: source.kafka: there is no topic "nosuch"; create it`,
		"pattern: '(', group: g":  "job.yaml:3:10: source.kafka: kafka: the pattern of topics",
		"topic: in, group: g, sasl: {mechanism: plain, user: u, password_file: nosuch}": "job.yaml:3:",
	} {
		s.write("job.yaml", strings.Replace(fmt.Sprintf(toKafka, s.brokers), "topic: in, group: g", source, 1))
		r := try("run", "job.yaml")
		if r.code == 0 || !strings.Contains(r.errors, want) {
			t.Errorf("%s: exit code %d: %s; want %q", source, r.code, r.errors, want)
		}
	}
}
