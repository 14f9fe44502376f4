package jobfile

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/flink/internal/idle"
	"github.com/tensorferry/tensorferry/flink/internal/leaktest"
	"github.com/tensorferry/tensorferry/job"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // sidecars say much
	leaktest.Main(m, closeIdle, leaktest.LocalRunner)
}

// closeIdle closes what is kept between bundles, and what bundles have left.
func closeIdle() {
	idle.CloseAll()
}

// load reads a job file with this text.
func load(t *testing.T, text string) *job.Spec {
	t.Helper()
	return loadIn(t, t.TempDir(), text)
}

func loadIn(t *testing.T, dir, text string) *job.Spec {
	t.Helper()
	path := filepath.Join(dir, "job.yaml")
	put(t, path, text)
	spec, err := job.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// textOf is a job as its workers get it.
func textOf(t *testing.T, spec *job.Spec) string {
	t.Helper()
	s, err := ship(spec)
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// folder lists the files of a folder that a user sees, with what is in them.
func folder(t *testing.T, dir string) string {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, n := range names {
		if strings.HasPrefix(n.Name(), ".") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n.Name()+": "+strings.ReplaceAll(strings.TrimSuffix(string(b), "\n"), "\n", " "))
	}
	return strings.Join(all, "\n")
}

// hidden counts the files that are not visible yet.
func hidden(t *testing.T, dir string) int {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, pendingPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// wantError checks an error's text.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %v; want %q in it", err, want)
	}
}

// broker is a fake cluster.
type broker struct {
	*testing.T
	fake *kfake.Cluster
}

func newBroker(t *testing.T, partitions int32, topics ...string) *broker {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closeIdle()
		fake.Close()
	})
	return &broker{t, fake}
}

func (b *broker) address() string { return b.fake.ListenAddrs()[0] }

func (b *broker) client(opts ...kgo.Opt) *kgo.Client {
	b.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(b.fake.ListenAddrs()...))...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(cl.Close)
	return cl
}

// fill writes records to a partition.
func (b *broker) fill(topic string, id int32, values ...string) {
	b.Helper()
	cl := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for _, v := range values {
		r := &kgo.Record{Topic: topic, Partition: id, Key: []byte("k" + v), Value: []byte(v), Timestamp: time.UnixMilli(1700000000000)}
		if err := cl.ProduceSync(context.Background(), r).FirstErr(); err != nil {
			b.Fatal(err)
		}
	}
}

// holds reads n records of a topic, and writes them with all that was set.
func (b *broker) holds(topic string, n int) string {
	b.Helper()
	cl := b.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	var all []string
	for len(all) < n {
		f := cl.PollFetches(b.Context())
		if err := f.Err(); err != nil {
			b.Fatal(err)
		}
		f.EachRecord(func(r *kgo.Record) {
			text := fmt.Sprintf("%d %s=%s", r.Partition, r.Key, r.Value)
			for _, h := range r.Headers {
				text += fmt.Sprintf(" %s:%s", h.Key, h.Value)
			}
			all = append(all, text)
		})
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// record is one of a split.
func record(split, position int64, value string) flink.Record {
	return flink.Record{Value: []byte(value), Key: fmt.Sprint("k", position), Split: split, Position: position}
}
