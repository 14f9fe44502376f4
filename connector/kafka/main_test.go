package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// broker is a fake cluster on a network in memory, for tests in virtual time.
type broker struct {
	t    *testing.T
	net  kfake.VirtualNetwork
	fake *kfake.Cluster
}

func newBroker(t *testing.T, partitions int32, topics ...string) *broker {
	b := &broker{t: t}
	var err error
	b.fake, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(b.net.Listen), kfake.SeedTopics(partitions, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.fake.Close)
	return b
}

func (b *broker) config() Config {
	return Config{Brokers: b.fake.ListenAddrs(), Options: []kgo.Opt{kgo.Dialer(b.net.DialContext)}}
}

func (b *broker) client(opts ...kgo.Opt) *kgo.Client {
	b.t.Helper()
	c := b.config()
	cl, err := c.client(opts...)
	if err != nil {
		b.t.Fatal(err)
	}
	return cl
}

// fill writes n records to each partition of a topic: the partition and a number, as "2/17", with
// that number as time in ms.
func (b *broker) fill(topic string, partitions int32, from, to int) {
	b.t.Helper()
	cl := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	for p := range partitions {
		for i := from; i < to; i++ {
			cl.Produce(context.Background(), &Record{Topic: topic, Partition: p, Key: []byte(strconv.Itoa(i)), Value: fmt.Appendf(nil, "%d/%d", p, i),
				Timestamp: time.UnixMilli(int64(i))}, nil)
		}
	}
	if err := cl.Flush(context.Background()); err != nil {
		b.t.Fatal(err)
	}
}

// committed are the values of a topic that a read_committed consumer sees, by partition, up to
// where they end now.
func (b *broker) committed(topic string) map[int32][]string {
	b.t.Helper()
	cl := b.client(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(context.Background(), topic)
	if err != nil {
		b.t.Fatal(err)
	}
	left := map[int32]int64{} // where each partition ends
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	out := map[int32][]string{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for len(left) > 0 && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *Record) {
			if !r.Attrs.IsControl() {
				out[r.Partition] = append(out[r.Partition], string(r.Value))
			}
			if end, ok := left[r.Partition]; ok && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		})
	}
	if len(left) > 0 {
		b.t.Errorf("%s: not read to the end: %v", topic, left)
	}
	return out
}

// check checks that every record of fill is in out once, as answer makes it, in the order of its
// partition.
func (b *broker) check(out map[int32][]string, partitions int32, n int, samePartition bool) {
	b.t.Helper()
	next := map[string]int{}
	for id, values := range out {
		for _, v := range values {
			p, rest, _ := strings.Cut(strings.TrimSuffix(v, "!"), "/")
			i, err := strconv.Atoi(rest)
			if err != nil || !strings.HasSuffix(v, "!") {
				b.t.Fatalf("%q is no answer", v)
			}
			if samePartition && p != strconv.Itoa(int(id)) {
				b.t.Fatalf("%q is in partition %d", v, id)
			}
			if i != next[p] {
				b.t.Fatalf("partition %s: %q comes where %d should", p, v, next[p])
			}
			next[p]++
		}
	}
	for p := range partitions {
		if got := next[strconv.Itoa(int(p))]; got != n {
			b.t.Errorf("partition %d: %d answers, want %d", p, got, n)
		}
	}
}

// answer takes its time, and some records fail the first time.
func answer(ctx context.Context, v []byte) ([]byte, error) {
	select {
	case <-time.After(time.Duration(1+len(v)%5) * time.Millisecond):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return append(slices.Clone(v), '!'), nil
}

var ordered = async.Config{Capacity: 64}

// same keeps results in the partition of their records, by number.
func same(g *Group) Encode[[]byte] {
	return func(r *async.Record[[]byte]) (*Record, error) {
		_, id, ok := g.Partition(r.Split)
		if !ok {
			return nil, errors.New("of no partition")
		}
		return &Record{Partition: id, Value: r.Value}, nil
	}
}

func (b *broker) group(name string) GroupConfig {
	return GroupConfig{Config: b.config(), Topics: Topics{Names: []string{"in"}}, Group: name, Partitioner: kgo.ManualPartitioner(), SessionTimeout: 10 * time.Second}
}

// job is from the topic "in" to the topic "out".
func job(g *Group, cfg stream.Config, fn func(context.Context, []byte) ([]byte, error)) *stream.Job {
	cfg.Checkpoint.Store = g
	j := stream.New("j", cfg)
	answers := stream.OrderedWait(stream.From(j, GroupSource(g, Raw[[]byte])), async.Func(fn, 64), ordered)
	stream.To(answers, GroupSink(g, SinkConfig[[]byte]{Topic: "out", Encode: same(g)}))
	return j
}
