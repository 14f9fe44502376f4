// Package kafkatopics turns a job file's kafka sections into sources, sinks and codecs of
// connector/kafka, for any host. [NewSource] and [NewSink] make both ends; [Decoder] and [Encoder]
// convert records. Only hosts need it; a job written in Go uses connector/kafka directly.
package kafkatopics

import (
	"encoding/json"
	"log/slog"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/job"
)

// Record is the record of a job that a file describes: one JSON object, with the bytes of its line.
type Record = json.RawMessage

// Brokers returns how to reach the brokers of the section at path. It reads the files of
// certificates and the password. The error is a job.Fault.
func Brokers(spec *job.Spec, k *job.Kafka, path string, log *slog.Logger) (c kafka.Config, err error) {
	c = kafka.Config{Brokers: k.Brokers, ClientID: "tensorferry-" + spec.Name, Logger: log}
	if k.TLS != nil {
		if c.TLS, err = spec.LoadTLS(k.TLS, path+".tls"); err != nil {
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

// Of returns what the job's source reads.
func Of(spec *job.Spec) kafka.Topics {
	k := spec.Source.Kafka
	t := kafka.Topics{Names: k.Topics, Pattern: k.Pattern, Traces: spec.Trace != nil}
	switch k.Start {
	case "latest":
		t.Start = kafka.Latest
	case "time":
		t.Start = kafka.From(k.At)
	}
	if k.SkipExpired {
		t.OnExpired = kafka.SkipExpired
	}
	return t
}

// NewSource returns the source of a job whose offsets are in the job's checkpoints. The error is a
// job.Fault.
func NewSource(spec *job.Spec, log *slog.Logger) (*kafka.Source[Record], error) {
	k := spec.Source.Kafka
	c, err := Brokers(spec, &k.Kafka, "source.kafka", log)
	if err != nil {
		return nil, err
	}
	s := kafka.NewSource(kafka.SourceConfig[Record]{Config: c, Topics: Of(spec), Discover: k.Discover, Uncommitted: k.Uncommitted, Decode: Decoder(k)})
	if err := s.Validate(); err != nil {
		return nil, spec.Fault("source.kafka", "%v", err)
	}
	return s, nil
}

// Compression returns the compression of a sink, in the order of preference. Nil: the host chooses.
func Compression(k *job.KafkaSink) []kgo.CompressionCodec {
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

// Partitioner returns a partitioner that chooses partitions by the key, except in the topics of
// sinks that keep the partitions of their records. Nil: there are no such sinks.
func Partitioner(spec *job.Spec) kgo.Partitioner {
	same := map[string]bool{}
	if k := spec.Sink.Kafka; k != nil && k.SamePartition {
		same[k.Topic] = true
	}
	if l := spec.DeadLetter; l != nil && l.Kafka != nil && l.Kafka.SamePartition {
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

// NewSink returns a sink for the section at path. It writes results as they arrive. The error is a
// job.Fault.
func NewSink(spec *job.Spec, k *job.KafkaSink, path string, encode kafka.Encode[Record], log *slog.Logger) (*kafka.Sink[Record], error) {
	c, err := Brokers(spec, &k.Kafka, path, log)
	if err != nil {
		return nil, err
	}
	s := kafka.NewSink(kafka.SinkConfig[Record]{
		Config: c, Topic: k.Topic, Encode: encode, Compression: Compression(k), MaxRecord: k.MaxRecord, Partitioner: Partitioner(spec),
	})
	if err := s.Validate(); err != nil {
		return nil, spec.Fault(path, "%v", err)
	}
	return s, nil
}
