package callbacks

import (
	"context"
	"crypto/tls"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// broker starts one with the topics in and out, of one partition, and three records in the first.
func broker(t *testing.T, opts ...kfake.Opt) kafka.Config {
	t.Helper()
	fake, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1), kfake.SeedTopics(1, "in", "out"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	return kafka.Config{Brokers: fake.ListenAddrs(), Timeout: 5 * time.Second}
}

func fill(t *testing.T, cfg kafka.Config) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for range 3 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "in", Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func decode(tr *trap) kafka.Decode[string] {
	return func(r *kafka.Record) (string, error) { return string(r.Value), tr.spring(tr.at) }
}

func encode(tr *trap) kafka.Encode[string] {
	return func(r *stream.Record[string]) (*kafka.Record, error) {
		return &kafka.Record{Value: []byte(r.Value)}, tr.spring(tr.at)
	}
}

// consumed runs a job over a topic. A mistake ends it.
func consumed(t *testing.T, source connector.Source[string]) error {
	j := stream.New("job", stream.Config{Checkpoint: stream.CheckpointConfig{Interval: time.Hour}, Restart: restart.Config{Strategy: restart.None}})
	stream.Collect(stream.From(j, source))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return j.Run(ctx)
}

// produced runs a job into a topic.
func produced(t *testing.T, cfg kafka.Config, set func(*kafka.SinkConfig[string])) error {
	j := stream.New("job", stream.Config{})
	c := kafka.SinkConfig[string]{Config: cfg, Topic: "out", Encode: func(r *stream.Record[string]) (*kafka.Record, error) {
		return &kafka.Record{Value: []byte(r.Value)}, nil
	}}
	if set != nil {
		set(&c)
	}
	stream.To(stream.From(j, stream.FromSlice([]string{"a", "b"})), connector.Sink[string](kafka.NewSink(c)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return j.Run(ctx)
}

type partitioner struct{ *trap }

func (p partitioner) ForTopic(string) kgo.TopicPartitioner { return p }
func (p partitioner) RequiresConsistency(*kgo.Record) bool { return true }
func (p partitioner) Partition(*kgo.Record, int) int {
	p.spring(p.at)
	return 0
}

type mechanism struct{ *trap }

func (mechanism) Name() string { return "PLAIN" }
func (m mechanism) Authenticate(context.Context, string) (sasl.Session, []byte, error) {
	return m, []byte("\x00u\x00p"), m.spring(m.at)
}
func (mechanism) Challenge([]byte) (bool, []byte, error) { return true, nil, nil }

// group runs a job of a consumer group, from a topic to a topic.
func group(set func(*kafka.GroupConfig, *kafka.SinkConfig[string], *trap), decode func(*trap) kafka.Decode[string]) func(*testing.T, *trap) error {
	return func(t *testing.T, tr *trap) error {
		cfg := broker(t)
		fill(t, cfg)
		gc := kafka.GroupConfig{Config: cfg, Topics: kafka.Topics{Names: []string{"in"}}, Group: "g"}
		sc := kafka.SinkConfig[string]{Topic: "out", Encode: encode(&trap{})}
		set(&gc, &sc, tr)
		g := kafka.NewGroup(gc)
		defer g.Close()
		j := stream.New("job", stream.Config{Checkpoint: stream.CheckpointConfig{Interval: 50 * time.Millisecond, Store: g}, Restart: restart.Config{Strategy: restart.None}})
		stream.To(stream.From(j, kafka.GroupSource(g, decode(tr))), kafka.GroupSink(g, sc))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return j.Run(ctx)
	}
}

// lines runs a job over a file, or over what stands for standard input.
func lines(t *testing.T, source func(path string) connector.Source[int], to connector.Sink[int]) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "in.jsonl")
	if err := os.WriteFile(path, []byte("1\n2\n"), 0o600); err != nil {
		return err
	}
	j := stream.New("job", stream.Config{})
	stream.To(stream.From(j, source(path)), to)
	return j.Run(t.Context())
}

type output struct{ *trap }

func (o output) Write(p []byte) (int, error) { return len(p), o.spring(o.at) }

// sinkOf is produced with a configuration that set completes.
func sinkOf(set func(*kafka.SinkConfig[string], *trap), opts ...kfake.Opt) func(*testing.T, *trap) error {
	return func(t *testing.T, tr *trap) error {
		return produced(t, broker(t, opts...), func(c *kafka.SinkConfig[string]) { set(c, tr) })
	}
}

func nothingSet(*kafka.GroupConfig, *kafka.SinkConfig[string], *trap) {}

var connectorRows = map[string]row{
	"connector/file.Folder.Dir":      {why: "connector.LoopChecker.CheckLoop of a file source calls it, whose row it has"},
	"connector/file.Folder.Files":    {why: "connector.LoopChecker.CheckLoop of a file source calls it, whose row it has"},
	"connector/kafka.Config.Options": {why: ofFranz},
	"connector/kafka.Decode":         {why: nested},
	"connector/kafka.Encode":         {why: nested},
	"connector/kafka.SourceConfig.Decode": {where: "Decode of the source", exits: "Read of source", returns: true, run: func(t *testing.T, tr *trap) error {
		cfg := broker(t)
		fill(t, cfg)
		return consumed(t, kafka.NewSource(kafka.SourceConfig[string]{Config: cfg, Topics: kafka.Topics{Names: []string{"in"}}, Decode: decode(tr)}))
	}},
	"connector/kafka.GroupSource(decode)": {where: "Decode of the source", exits: "Read of source", returns: true, run: group(nothingSet, decode)},
	"connector/kafka.SinkConfig.Encode": {where: "Encode of the sink", exits: "Write of sink", returns: true,
		run: sinkOf(func(c *kafka.SinkConfig[string], tr *trap) { c.Encode = encode(tr) })},
	"connector/kafka.SinkConfig.Partitioner": {where: "Partition of the Partitioner",
		run: sinkOf(func(c *kafka.SinkConfig[string], tr *trap) { c.Partitioner = partitioner{tr} })},
	"connector/kafka.GroupConfig.Partitioner": {where: "Partition of the Partitioner",
		run: group(func(c *kafka.GroupConfig, _ *kafka.SinkConfig[string], tr *trap) { c.Partitioner = partitioner{tr} },
			func(*trap) kafka.Decode[string] { return decode(&trap{}) })},
	"connector/kafka.Config.SASL": {where: "Authenticate of the SASL mechanism", returns: true,
		run: sinkOf(func(c *kafka.SinkConfig[string], tr *trap) { c.SASL = mechanism{tr} }, kfake.EnableSASL(), kfake.Superuser("PLAIN", "u", "p"))},
	"connector/kafka.Config.TLS": {where: "VerifyConnection of the TLS configuration", returns: true,
		run: sinkOf(func(c *kafka.SinkConfig[string], tr *trap) {
			c.TLS = &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return tr.spring(tr.at) }}
		}, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}}))},
	"connector/kafka.Config.Logger": {returns: true, check: told, where: "connection refused", run: func(t *testing.T, tr *trap) error {
		own := &trap{at: "log", mistake: tr.mistake}
		err := produced(t, kafka.Config{Brokers: []string{"127.0.0.1:1"}, Timeout: time.Second, Logger: own.logger()}, nil)
		tr.sprung.Store(own.sprung.Load())
		return err
	}},

	"connector/file.Decode": {why: nested},
	"connector/file.Encode": {why: nested},
	"connector/file.SourceConfig.Decode": {where: "Decode of the source", exits: "Read of source", returns: true, run: func(t *testing.T, tr *trap) error {
		return lines(t, func(path string) connector.Source[int] {
			return file.NewSource(file.SourceConfig[int]{Paths: []string{path}, Decode: decodeLine(tr)})
		}, sink{&trap{}})
	}},
	"connector/file.StdinConfig.Decode": {where: "Decode of the source", exits: "Read of source", returns: true, run: func(t *testing.T, tr *trap) error {
		return lines(t, func(path string) connector.Source[int] {
			return stdin(t, file.StdinConfig[int]{Decode: decodeLine(tr)}, path)
		}, sink{&trap{}})
	}},
	"connector/file.SinkConfig.Encode": {where: "Encode of the sink", exits: "Write of sink", returns: true, run: func(t *testing.T, tr *trap) error {
		return lines(t, numbers, file.NewSink(file.SinkConfig[int]{Dir: t.TempDir(), Encode: encodeLine(tr)}))
	}},
	"connector/file.StdoutConfig.Encode": {where: "Encode of the sink", exits: "Write of sink", returns: true, run: func(t *testing.T, tr *trap) error {
		return lines(t, numbers, file.NewStdout(file.StdoutConfig[int]{Output: io.Discard, Encode: encodeLine(tr)}))
	}},
	"connector/file.SourceConfig.Logger": {why: nested},
	"connector/file.SourceConfig.Time": {where: "Time of the source", exits: "Read of source", returns: true, run: func(t *testing.T, tr *trap) error {
		return lines(t, func(path string) connector.Source[int] {
			return file.NewSource(file.SourceConfig[int]{Paths: []string{path}, Decode: file.JSON[int], Time: timeOf(tr)})
		}, sink{&trap{}})
	}},
	"connector/file.StdinConfig.Time": {where: "Time of the source", exits: "Read of source", returns: true, run: func(t *testing.T, tr *trap) error {
		return lines(t, func(path string) connector.Source[int] {
			return stdin(t, file.StdinConfig[int]{Decode: file.JSON[int], Time: timeOf(tr)}, path)
		}, sink{&trap{}})
	}},
	"connector/file.StdoutConfig.Output": {where: "Commit of sink", returns: true, run: func(t *testing.T, tr *trap) error {
		return lines(t, numbers, file.NewStdout(file.StdoutConfig[int]{Encode: file.JSONLine[int], Output: output{tr}}))
	}},
}

// numbers reads the file of lines.
func numbers(path string) connector.Source[int] {
	return file.NewSource(file.SourceConfig[int]{Paths: []string{path}, Decode: file.JSON[int]})
}

// stdin reads a file as if it were standard input.
func stdin(t *testing.T, c file.StdinConfig[int], path string) connector.Source[int] {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	c.Input = f
	return file.NewStdin(c)
}

func decodeLine(tr *trap) file.Decode[int] {
	return func([]byte) (int, error) { return 1, tr.spring(tr.at) }
}

func encodeLine(tr *trap) file.Encode[int] {
	return func(*async.Record[int]) ([]byte, error) { return []byte("1"), tr.spring(tr.at) }
}

func timeOf(tr *trap) func(int) (stream.EventTime, error) {
	return func(int) (stream.EventTime, error) { return async.NoTime, tr.spring(tr.at) }
}
