package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/stream"
)

// brokersOf is how the brokers of a section are reached. The error is a job.Fault.
func brokersOf(spec *job.Spec, k *job.Kafka, path string, log *slog.Logger) (c kafka.Config, err error) {
	c = kafka.Config{Brokers: k.Brokers, ClientID: "tensorferry-" + spec.Name, Logger: log}
	if k.TLS != nil {
		if c.TLS, err = loadTLS(spec, k.TLS, path+".tls"); err != nil {
			return c, err
		}
	}
	if s := k.SASL; s != nil {
		text, err := os.ReadFile(s.PasswordFile)
		if err != nil {
			return c, spec.Fault(path+".sasl.password_file", "%v", err)
		}
		password := strings.TrimRight(string(text), "\r\n")
		switch s.Mechanism {
		case "plain":
			c.SASL = plain.Auth{User: s.User, Pass: password}.AsMechanism()
		case "scram-sha-256":
			c.SASL = scram.Auth{User: s.User, Pass: password}.AsSha256Mechanism()
		case "scram-sha-512":
			c.SASL = scram.Auth{User: s.User, Pass: password}.AsSha512Mechanism()
		}
	}
	return c, nil
}

func topicsOf(k *job.KafkaSource) kafka.Topics {
	t := kafka.Topics{Names: k.Topics, Pattern: k.Pattern}
	switch k.Start {
	case "latest":
		t.Start = kafka.Latest
	case "time":
		t.Start = kafka.From(k.At)
	}
	return t
}

// newKafkaSource is the source of a job whose results go elsewhere than to Kafka.
func newKafkaSource(spec *job.Spec, log *slog.Logger) (stream.Source[record], error) {
	k := spec.Source.Kafka
	c, err := brokersOf(spec, &k.Kafka, "source.kafka", log)
	if err != nil {
		return nil, err
	}
	s := kafka.NewSource(kafka.SourceConfig[record]{Config: c, Topics: topicsOf(k), Discover: k.Discover, Uncommitted: k.Uncommitted, Decode: decoderOf(k)})
	if err := s.Validate(); err != nil {
		return nil, spec.Fault("source.kafka", "%v", err)
	}
	return s, nil
}

// checkKafka asks whether topics are there, before a sidecar is started, to say what is wrong with its place in the job file. What a resumed run
// reads is its source's to judge.
func checkKafka(ctx context.Context, spec *job.Spec, p parts, how beginning) error {
	at := func(path string, err error) error {
		if err == nil {
			return nil
		}
		return placed{spec.Fault(path, "%s", strings.TrimPrefix(err.Error(), "kafka: "))}
	}
	switch {
	case p.group != nil:
		if err := p.group.Reach(ctx); err != nil {
			return at("source.kafka", err)
		}
	case spec.Source.Kafka != nil && !how.resume && how.from == "":
		if _, err := p.source.Splits(ctx); err != nil {
			return at("source.kafka", err)
		}
	}
	if spec.Sink.Kafka != nil {
		if _, err := p.sink.Committer(ctx); err != nil {
			return at("sink.kafka", err)
		}
	}
	if l := spec.DeadLetter; l != nil && l.Kafka != nil {
		if _, err := p.letters.Committer(ctx); err != nil {
			return at("dead_letter.kafka", err)
		}
	}
	return nil
}

// inKafka adds to the failure of a record where it is, if its source knows.
func inKafka(err error, source any) error {
	r, failed := errors.AsType[*async.RecordError](err)
	s, knows := source.(interface {
		Partition(split int) (topic string, id int32, ok bool)
	})
	if !failed || !knows {
		return err
	}
	topic, id, ok := s.Partition(r.Split)
	if !ok {
		return err
	}
	return fmt.Errorf("%w (it is the record of the topic %s, partition %d, offset %d)", err, topic, id, r.Position)
}

// newGroup is what a job from Kafka to Kafka reads, writes and keeps its checkpoints with.
func newGroup(spec *job.Spec, log *slog.Logger) (*kafka.Group, error) {
	k := spec.Source.Kafka
	c, err := brokersOf(spec, &k.Kafka, "source.kafka", log)
	if err != nil {
		return nil, err
	}
	cfg := kafka.GroupConfig{
		Config: c, Topics: topicsOf(k), Group: k.Group, Instance: k.Instance,
		RebalanceTimeout: max(kafka.DefaultRebalanceTimeout, spec.StopTimeout),
		// A transaction lasts from one checkpoint to the next and through that one's drain.
		TransactionTimeout: cmp.Or(k.TransactionTimeout, max(kafka.DefaultTransactionTimeout, 3*interval(spec))),
		SessionTimeout:     k.SessionTimeout,
		Discover:           k.Discover,
		Compression:        compressionOf(spec.Sink.Kafka),
		Partitioner:        partitionerOf(spec),
	}
	g := kafka.NewGroup(cfg)
	if err := g.Validate(); err != nil {
		return nil, spec.Fault("source.kafka", "%v", err)
	}
	return g, nil
}

func compressionOf(k *job.KafkaSink) []kgo.CompressionCodec {
	switch k.Compression {
	case "none":
		return []kgo.CompressionCodec{kgo.NoCompression()}
	case "gzip":
		return []kgo.CompressionCodec{kgo.GzipCompression()}
	case "lz4":
		return []kgo.CompressionCodec{kgo.Lz4Compression()}
	case "zstd":
		return []kgo.CompressionCodec{kgo.ZstdCompression()}
	case "snappy":
		return []kgo.CompressionCodec{kgo.SnappyCompression()}
	}
	return nil
}

// partitionerOf chooses partitions by the key, but for topics of sinks that keep their records' partitions.
func partitionerOf(spec *job.Spec) kgo.Partitioner {
	same := map[string]bool{}
	if k := spec.Sink.Kafka; k.SamePartition {
		same[k.Topic] = true
	}
	if l := spec.DeadLetter; l != nil && l.Kafka.SamePartition {
		same[l.Kafka.Topic] = true
	}
	if len(same) == 0 {
		return nil
	}
	return topicPartitioner{same: same, manual: kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int {
		return func(r *kgo.Record, n int) int { return int(r.Partition) % n }
	}), hash: kgo.StickyKeyPartitioner(nil)}
}

type topicPartitioner struct {
	same         map[string]bool
	manual, hash kgo.Partitioner
}

func (p topicPartitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if p.same[topic] {
		return p.manual.ForTopic(topic)
	}
	return p.hash.ForTopic(topic)
}

// newKafkaSink is a sink at path: of the group, or one that writes at least once.
func newKafkaSink(spec *job.Spec, k *job.KafkaSink, path string, encode kafka.Encode[record], g *kafka.Group, log *slog.Logger) (stream.Sink[record], error) {
	if g != nil {
		return kafka.GroupSink(g, kafka.SinkConfig[record]{Topic: k.Topic, Encode: encode, MaxRecord: k.MaxRecord}), nil
	}
	c, err := brokersOf(spec, &k.Kafka, path, log)
	if err != nil {
		return nil, err
	}
	s := kafka.NewSink(kafka.SinkConfig[record]{
		Config: c, Topic: k.Topic, Encode: encode, Compression: compressionOf(k), MaxRecord: k.MaxRecord,
	})
	if err := s.Validate(); err != nil {
		return nil, spec.Fault(path, "%v", err)
	}
	return s, nil
}
