//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/internal/flinkenv"
	"github.com/tensorferry/tensorferry/internal/kafkaenv"
	"github.com/tensorferry/tensorferry/internal/pyenv"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

const partitions = 4

// pipe is a rig whose job is from Kafka to Kafka.
type pipe struct {
	*rig
	broker *kafkaenv.Broker
	in     string
	out    string
	sent   int

	mu    sync.Mutex
	times map[int]int
	last  [partitions]int // the greatest id of each partition
	wrong string
}

func newPipe(t *testing.T, c *flinkenv.Cluster, broker *kafkaenv.Broker, script sidecartest.Script) *pipe {
	p := &pipe{rig: newRig(t, c, script, 0), broker: broker, times: map[int]int{}}
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	p.in, p.out = name+"-in", name+"-out"
	cl := p.client()
	defer cl.Close()
	for _, topic := range []string{p.in, p.out} {
		if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	p.read()
	return p
}

func (p *pipe) client(opts ...kgo.Opt) *kgo.Client {
	p.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(p.broker.Addr())}, opts...)...)
	if err != nil {
		p.Fatal(err)
	}
	return cl
}

// job writes the job file.
func (p *pipe) job(parallelism int, infer string, more ...string) string {
	p.Helper()
	text := fmt.Sprintf(`name: %s
parallelism: %d
source: {kafka: {brokers: %q, topic: %s, group: g, discover: 1s}}
infer: {endpoint: %q, model: model, outputs: {y: {field: y}}%s}
sink: {kafka: {topic: %s, partition: same}}
%s
`, p.in, parallelism, p.broker.Addr(), p.in, p.sidecar.Endpoint(), infer, p.out, strings.Join(more, "\n"))
	if err := os.WriteFile(p.path("job.yaml"), []byte(text), 0o644); err != nil {
		p.Fatal(err)
	}
	return p.path("job.yaml")
}

// send writes n more records: id i to partition i modulo their number.
func (p *pipe) send(n int) {
	p.Helper()
	cl := p.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	for i := p.sent; i < p.sent+n; i++ {
		cl.Produce(context.Background(), &kgo.Record{Topic: p.in, Partition: int32(i % partitions), Value: fmt.Appendf(nil, `{"id":%d,"x":[%d]}`, i, i%1000)}, nil)
	}
	if err := cl.Flush(context.Background()); err != nil {
		p.Fatal(err)
	}
	p.sent += n
}

// read reads results until the end of the test.
func (p *pipe) read() {
	cl := p.client(kgo.ConsumeTopics(p.out))
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		defer cl.Close()
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachRecord(p.take)
		}
	})
	p.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

func (p *pipe) take(k *kgo.Record) {
	var v struct {
		ID int
		X  []float64
		Y  float64
	}
	err := json.Unmarshal(k.Value, &v)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || v.Y != 2*v.X[0] || v.ID%partitions != int(k.Partition) {
		p.wrong = fmt.Sprintf("partition %d, offset %d: %s (%v)", k.Partition, k.Offset, k.Value, err)
	}
	p.times[v.ID]++
	if p.times[v.ID] == 1 && v.ID < p.last[k.Partition] {
		p.wrong = fmt.Sprintf("partition %d, offset %d: the first result of record %d comes behind one of record %d", k.Partition, k.Offset, v.ID, p.last[k.Partition])
	}
	p.last[k.Partition] = max(p.last[k.Partition], v.ID)
}

// have waits until n records have a result.
func (p *pipe) have(n int) {
	p.Helper()
	p.eventually(fmt.Sprintf("%d results", n), func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.wrong != "" {
			p.Fatal(p.wrong)
		}
		return len(p.times) >= n
	})
}

// doubled returns how many results are there more than once.
func (p *pipe) doubled() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.times {
		n += t - 1
	}
	return n
}

// stop stops a job with a savepoint and returns its path.
func (p *pipe) stop(run *pyenv.Process) string {
	p.Helper()
	run.Signal(syscall.SIGTERM)
	if code := run.Wait(); code != 143 {
		p.Fatalf("it ended with %d: %s", code, run.Output())
	}
	out := run.Output()
	i := strings.LastIndex(out, "--savepoint ") // the last line says how to go on
	if i < 0 {
		p.Fatalf("no savepoint: %s", out)
	}
	return strings.TrimSpace(out[i+len("--savepoint "):])
}

// TestKafka: jobs from Kafka to Kafka, on a cluster of two TaskManagers.
func TestKafka(t *testing.T) {
	c := newCluster(t)
	broker := kafkaenv.Start(t)
	t.Run("stopped", func(t *testing.T) { testStopped(t, c, broker) })
	t.Run("killed", func(t *testing.T) { testKafkaKilled(t, c, broker) })
}

// testStopped: barriers wait for what is in flight. A savepoint is one: of what was called before
// it everything has its result, and the job that goes on from it calls nothing again. New
// partitions are found meanwhile, and no connection is left.
func testStopped(t *testing.T, c *flinkenv.Cluster, broker *kafkaenv.Broker) {
	p := newPipe(t, c, broker, sidecartest.Script{Latency: 20 * time.Millisecond})
	p.send(40_000)
	run, id := p.submit(p.job(2, ", capacity: 40", "checkpoint: {interval: 300ms}"), "--accept-growing-state", "--flink", c.REST())
	p.have(5_000)
	p.eventually("checkpoints while calls are in flight", func() bool { return c.Checkpoints(id).Counts.Completed >= 3 && p.sidecar.Status().Rows > 0 })
	path := p.stop(run)
	called := p.rows()
	if called == p.sent {
		t.Error("all was done when it was stopped: this shows nothing")
	}
	p.have(called)
	if n := p.doubled(); n > 0 {
		t.Errorf("%d results are doubled", n)
	}
	p.disconnected()
	run, id = p.submit(p.path("job.yaml"), "--flink", c.REST(), "--savepoint", path)
	p.have(p.sent)
	if n, rows := p.doubled(), p.rows(); n > 0 || rows != p.sent {
		t.Errorf("%d results are doubled; %d rows were called for %d records", n, rows, p.sent)
	}
	p.send(100)
	p.have(p.sent)
	p.stop(run)
	t.Logf("%d rows before the stop; %+v", called, c.Checkpoints(id).Counts)
}

// testKafkaKilled: whatever is killed, every record arrives, the first time in the order of its
// partition; those since the last checkpoint arrive again.
func testKafkaKilled(t *testing.T, c *flinkenv.Cluster, broker *kafkaenv.Broker) {
	p := newPipe(t, c, broker, sidecartest.Script{Latency: 20 * time.Millisecond})
	p.send(40_000)
	run, id := p.submit(p.job(2, ", capacity: 40", "checkpoint: {interval: 300ms}", "restart: {strategy: fixed-delay, attempts: 100, delay: 200ms}"), "--accept-growing-state", "--flink", c.REST())
	p.killEverything()
	p.have(p.sent)
	t.Logf("%d of %d results are doubled; %+v; %q", p.doubled(), p.sent, c.Checkpoints(id).Counts, p.failures(id))
	if len(p.failures(id)) < 2 {
		t.Errorf("Flink knows of fewer than two failures")
	}
	p.stop(run)
	p.disconnected()
}
