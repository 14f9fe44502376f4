package kafka

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/connectortest"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/stream"
)

// lanes writes n records to each partition of a topic.
func (b *broker) lanes(topic string, partitions int32, n int) {
	b.t.Helper()
	cl := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	for p := range partitions {
		for i := range n {
			cl.Produce(context.Background(), &Record{Topic: topic, Partition: p, Value: []byte(connectortest.Line(int(p), i))}, nil)
		}
	}
	if err := cl.Flush(context.Background()); err != nil {
		b.t.Fatal(err)
	}
}

// byLane sorts the committed values of a topic by lane.
func (b *broker) byLane(topic string) map[int][]string {
	all := map[int][]string{}
	for _, values := range b.committed(topic) {
		for _, v := range values {
			all[laneOf(b.t, v)] = append(all[laneOf(b.t, v)], v)
		}
	}
	return all
}

func laneOf(t *testing.T, line string) int {
	t.Helper()
	var v struct{ Lane int }
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return v.Lane
}

func TestSourceKeepsTheContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 3, "in")
		b.lanes("in", 3, 400)
		connectortest.Source(t, connectortest.Input[[]byte]{
			New:     func() connector.Source[[]byte] { return b.source(Topics{Names: []string{"in"}}) },
			Records: 1200, Text: func(v []byte) string { return string(v) },
		})
	})
}

func TestKafkaToKafkaKeepsTheContract(t *testing.T) {
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			b := newBroker(t, 3, "in", "out")
			b.lanes("in", 3, 1000)
			var g *Group
			connectortest.Job(t, connectortest.Pair[[]byte]{
				Lanes: 3, Records: 1000, Guarantee: connectortest.ExactlyOnce, Endless: true,
				StoreOf: func() stream.CheckpointStore { return g },
				Open: func() (connector.Source[[]byte], connector.Sink[[]byte], func() error) {
					cfg := b.group("g")
					cfg.Instance = "the same one each time"
					g = NewGroup(cfg)
					return GroupSource(g, Raw[[]byte]), GroupSink(g, SinkConfig[[]byte]{Topic: "out", Encode: same(g)}), g.Close
				},
				Published: func() map[int][]string { return b.byLane("out") },
			})
		})
	}
}

func TestKafkaToFilesKeepsTheContract(t *testing.T) {
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			b := newBroker(t, 3, "in")
			b.lanes("in", 3, 1000)
			dir := t.TempDir()
			connectortest.Job(t, connectortest.Pair[json.RawMessage]{
				Lanes: 3, Records: 1000, Guarantee: connectortest.ExactlyOnce, Endless: true, Store: stream.NewMemoryStore(),
				Open: func() (connector.Source[json.RawMessage], connector.Sink[json.RawMessage], func() error) {
					return NewSource(SourceConfig[json.RawMessage]{Config: b.config(), Topics: Topics{Names: []string{"in"}}, Decode: Raw[json.RawMessage]}),
						file.NewSink(file.SinkConfig[json.RawMessage]{Encode: file.RawLine, Dir: dir}), func() error { return nil }
				},
				Published: func() map[int][]string {
					names, err := filepath.Glob(filepath.Join(dir, "part-*"))
					if err != nil {
						t.Fatal(err)
					}
					slices.Sort(names)
					all := map[int][]string{}
					for _, name := range names {
						text, err := os.ReadFile(name)
						if err != nil {
							t.Fatal(err)
						}
						for line := range strings.Lines(string(text)) {
							line = strings.TrimSuffix(line, "\n")
							all[laneOf(t, line)] = append(all[laneOf(t, line)], line)
						}
					}
					return all
				},
			})
		})
	}
}

func TestFilesToKafkaKeepTheContract(t *testing.T) {
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			b := newBroker(t, 2, "out")
			dir := t.TempDir()
			for lane := range 2 {
				var text strings.Builder
				for i := range 1000 {
					text.WriteString(connectortest.Line(lane, i) + "\n")
				}
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(lane)), []byte(text.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			connectortest.Job(t, connectortest.Pair[json.RawMessage]{
				Lanes: 2, Records: 1000, Guarantee: connectortest.AtLeastOnce, Store: stream.NewMemoryStore(),
				Open: func() (connector.Source[json.RawMessage], connector.Sink[json.RawMessage], func() error) {
					return file.NewSource(file.SourceConfig[json.RawMessage]{Decode: file.Raw, Paths: []string{filepath.Join(dir, "*")}}),
						NewSink(SinkConfig[json.RawMessage]{Config: b.config(), Topic: "out", Encode: func(r *async.Record[json.RawMessage]) (*Record, error) {
							return &Record{Key: fmt.Append(nil, r.Split), Value: r.Value}, nil
						}}), func() error { return nil }
				},
				Published: func() map[int][]string { return b.byLane("out") },
			})
		})
	}
}
