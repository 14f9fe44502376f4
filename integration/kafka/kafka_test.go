//go:build integration

// Package kafka runs jobs from Kafka to Kafka as processes, against a real broker, and ends both as
// rudely as can be.
package kafka

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/internal/kafkaenv"
	"github.com/tensorferry/tensorferry/internal/pyenv"
)

func TestMain(m *testing.M) { pyenv.Main(m) }

const partitions = 8

// pipeline is a broker with the topics in and out, and a job between them.
type pipeline struct {
	*testing.T
	broker *kafkaenv.Broker
	job    string
}

func newPipeline(t *testing.T, broker *kafkaenv.Broker) *pipeline {
	p := &pipeline{T: t, broker: broker}
	cl := p.client()
	defer cl.Close()
	for _, topic := range []string{"in", "out"} {
		if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	p.write("topic: in, session_timeout: 6s, transaction_timeout: 15s")
	return p
}

// write writes the job file, whose source has these keys.
func (p *pipeline) write(source string) {
	p.Helper()
	p.job = filepath.Join(p.TempDir(), "job.yaml")
	if err := os.WriteFile(p.job, fmt.Appendf(nil, `name: pipe
parallelism: 2
source: {kafka: {brokers: %q, group: g, %s}}
infer: {model: double, capacity: 2000, outputs: {y: {field: z}}}
sink: {kafka: {topic: out, partition: same}}
checkpoint: {interval: 200ms}
restart: {strategy: fixed-delay, attempts: 10000, delay: 100ms}
sidecar: {models: {double: "mock:double?input=x:FP32[1]&latency=3ms"}}
log: {level: info}
`, p.broker.Addr(), source), 0o644); err != nil {
		p.Fatal(err)
	}
}

func (p *pipeline) client(opts ...kgo.Opt) *kgo.Client {
	p.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(p.broker.Addr())}, opts...)...)
	if err != nil {
		p.Fatal(err)
	}
	return cl
}

// run starts a process of the job.
func (p *pipeline) run() *pyenv.Process {
	p.Helper()
	program, err := pyenv.Program()
	if err != nil {
		p.Fatal(err)
	}
	return pyenv.Start(p, exec.Command(program, "run", "--no-progress", p.job))
}

// fill writes n records to the topic in: record i to partition i modulo their number.
func (p *pipeline) fill(n int) {
	p.Helper()
	cl := p.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000))
	defer cl.Close()
	var mu sync.Mutex
	var failed error
	for i := range n {
		cl.Produce(context.Background(), &kgo.Record{Topic: "in", Partition: int32(i % partitions), Value: fmt.Appendf(nil, `{"id":%d,"x":[%d]}`, i, i%1000)},
			func(_ *kgo.Record, err error) {
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			})
	}
	if err := cl.Flush(context.Background()); err != nil || failed != nil {
		p.Fatal(err, failed)
	}
}

// reader reads the topic out as a read_committed consumer does. Every record must be there once,
// and in the order of its partition.
type reader struct {
	*pipeline
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	count int
	next  [partitions]int
	wrong string
}

func (p *pipeline) read() *reader {
	r := &reader{pipeline: p}
	for i := range r.next {
		r.next[i] = i
	}
	cl := p.client(kgo.ConsumeTopics("out"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	r.done.Go(func() {
		defer cl.Close()
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachRecord(r.take)
		}
	})
	p.Cleanup(func() {
		r.cancel()
		r.done.Wait()
	})
	return r
}

func (r *reader) take(k *kgo.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var v struct {
		ID int
		Z  float64
	}
	err := json.Unmarshal(k.Value, &v)
	if want := r.next[k.Partition]; r.wrong == "" && (err != nil || v.ID != want || v.Z != float64(2*(v.ID%1000))) {
		r.wrong = fmt.Sprintf("partition %d, offset %d: %s (%v) where id %d should be; %d records before", k.Partition, k.Offset, k.Value, err, want, r.count)
	}
	r.next[k.Partition] += partitions
	r.count++
}

// until waits for n records. over, unless it is nil, is a process that must not end before.
func (r *reader) until(n int, running ...*pyenv.Process) {
	r.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	last, moved := 0, time.Now()
	for {
		r.mu.Lock()
		count, wrong := r.count, r.wrong
		r.mu.Unlock()
		if wrong != "" {
			r.Fatal(wrong)
		}
		if count >= n {
			return
		}
		if count > last {
			last, moved = count, time.Now()
		}
		for _, p := range running {
			if p.Over() {
				r.Fatalf("a process ended after %d records", count)
			}
		}
		if time.Since(moved) > 3*time.Minute {
			r.Fatalf("nothing moves after %d of %d records", count, n)
		}
		<-tick.C
	}
}

// One million records, while processes of the job join, leave, are killed and paused, and the
// broker is killed and paused: a read_committed consumer finds every record once, in the order of
// its partition.
func TestOneMillion(t *testing.T) {
	const n = 1_000_000
	p := newPipeline(t, kafkaenv.Start(t))
	began := time.Now()
	p.fill(n)
	t.Logf("written in %v", time.Since(began).Round(time.Millisecond))
	out := p.read()
	began = time.Now()
	at := func(what string) {
		out.mu.Lock()
		defer out.mu.Unlock()
		t.Logf("%8v %7d %s", time.Since(began).Round(time.Millisecond), out.count, what)
	}
	first := p.run()
	out.until(n/50, first)
	at("a second process joins")
	second := p.run()
	out.until(n/10, first, second)
	at("the first is killed")
	first.Kill()
	out.until(n*2/10, second)
	at("a third joins")
	third := p.run()
	out.until(n*3/10, second, third)
	at("the second is paused until it is taken for dead")
	second.Signal(syscall.SIGSTOP)
	<-time.After(8 * time.Second)
	second.Signal(syscall.SIGCONT)
	out.until(n*4/10, third)
	at("the broker is killed")
	p.broker.Kill()
	<-time.After(time.Second)
	p.broker.Restart()
	out.until(n*5/10, third)
	at("the broker is paused")
	p.broker.Pause(3 * time.Second)
	out.until(n*6/10, third)
	at("the third is told to stop")
	third.Signal(syscall.SIGTERM)
	if code := third.Wait(); code != 143 {
		t.Errorf("it ended with %d", code)
	}
	out.until(n*7/10, second)
	at("two more join, one is killed at once")
	fourth, fifth := p.run(), p.run()
	out.until(n*8/10, second)
	fourth.Kill()
	out.until(n, second, fifth)
	at("done")
	for _, q := range []*pyenv.Process{second, fifth} {
		q.Signal(syscall.SIGTERM)
		if code := q.Wait(); code != 143 {
			t.Errorf("a process ended with %d", code)
		}
		at("a process has stopped")
		t.Log(q.Output())
	}
	out.settle(n)
}
