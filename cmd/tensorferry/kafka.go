package main

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/inference"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

// brokersOf is how the brokers of a section are reached. The error is a job.Fault.
func brokersOf(spec *job.Spec, k *job.Kafka, path string, log *slog.Logger) (c kafka.Config, err error) {
	c = kafka.Config{Brokers: k.Brokers, ClientID: "tensorferry-" + spec.Name, Logger: log}
	if k.TLS != nil {
		if c.TLS, err = inference.LoadTLS(spec, k.TLS, path+".tls"); err != nil {
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

func topicsOf(spec *job.Spec) kafka.Topics {
	k := spec.Source.Kafka
	t := kafka.Topics{Names: k.Topics, Pattern: k.Pattern, Traces: spec.Trace != nil}
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
	s := kafka.NewSource(kafka.SourceConfig[record]{Config: c, Topics: topicsOf(spec), Discover: k.Discover, Uncommitted: k.Uncommitted, Decode: decoderOf(k.Format)})
	if err := s.Validate(); err != nil {
		return nil, spec.Fault("source.kafka", "%v", err)
	}
	return s, nil
}

// newGroup is what a job from Kafka to Kafka reads, writes and keeps its checkpoints with.
func newGroup(spec *job.Spec, log *slog.Logger) (*kafka.Group, error) {
	k := spec.Source.Kafka
	c, err := brokersOf(spec, &k.Kafka, "source.kafka", log)
	if err != nil {
		return nil, err
	}
	cfg := kafka.GroupConfig{
		Config: c, Topics: topicsOf(spec), Group: k.Group, Instance: k.Instance,
		RebalanceTimeout: max(kafka.DefaultRebalanceTimeout, spec.StopTimeout),
		// A transaction lasts from one checkpoint to the next and through that one's drain.
		TransactionTimeout: cmp.Or(k.TransactionTimeout, max(kafka.DefaultTransactionTimeout, 3*interval(spec))),
		SessionTimeout:     k.SessionTimeout,
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

// encoderOf makes Kafka records of results. g is nil unless the job is from Kafka to Kafka.
func encoderOf(k *job.KafkaSink, g *kafka.Group) kafka.Encode[record] {
	var key, value []string
	if k.Key.Field != "" {
		key = strings.Split(k.Key.Field, ".")
	}
	if k.Format == job.FormatRaw {
		value = strings.Split(k.Value.Field, ".")
	}
	return func(r *stream.Record[record]) (*kafka.Record, error) {
		out := &kafka.Record{Value: r.Value}
		if value != nil {
			text, ok := jsoncodec.Scalar(r.Value, value)
			if !ok {
				return nil, fmt.Errorf("it has no text, number or truth value in the field %s", k.Value.Field)
			}
			out.Value = []byte(text)
		}
		switch {
		case key != nil:
			if text, ok := jsoncodec.Scalar(r.Value, key); ok {
				out.Key = []byte(text)
			}
		case r.Key != "":
			out.Key = []byte(r.Key)
		}
		if k.SamePartition {
			_, id, ok := g.Partition(r.Split)
			if !ok {
				return nil, fmt.Errorf("split %d is no partition", r.Split)
			}
			out.Partition = id
		}
		return out, nil
	}
}

// newKafkaSink is a sink at path: of the group, or one that writes at least once.
func newKafkaSink(spec *job.Spec, k *job.KafkaSink, path string, g *kafka.Group, log *slog.Logger) (stream.Sink[record], error) {
	if g != nil {
		return kafka.GroupSink(g, kafka.SinkConfig[record]{Topic: k.Topic, Encode: encoderOf(k, g)}), nil
	}
	c, err := brokersOf(spec, &k.Kafka, path, log)
	if err != nil {
		return nil, err
	}
	s := kafka.NewSink(kafka.SinkConfig[record]{Config: c, Topic: k.Topic, Encode: encoderOf(k, nil), Compression: compressionOf(k)})
	if err := s.Validate(); err != nil {
		return nil, spec.Fault(path, "%v", err)
	}
	return s, nil
}

// decoderOf makes records of the job of Kafka's. A value that is no JSON is a record all the same: the operator
// judges it, by the policy for bad records.
func decoderOf(f job.Format) kafka.Decode[record] {
	if f == job.FormatRaw {
		return rawRecord
	}
	return kafka.Raw[record]
}

// rawRecord is an object with everything that Kafka has of a record.
func rawRecord(r *kafka.Record) (record, error) {
	form := struct {
		Value     *string           `json:"value"`
		Base64    string            `json:"base64,omitempty"`
		Key       *string           `json:"key,omitempty"`
		Headers   map[string]string `json:"headers,omitempty"`
		Topic     string            `json:"topic"`
		Partition int32             `json:"partition"`
		Offset    int64             `json:"offset"`
		Time      string            `json:"time"`
	}{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp.UTC().Format(time.RFC3339Nano)}
	switch {
	case r.Value == nil: // a tombstone
	case utf8.Valid(r.Value):
		text := string(r.Value)
		form.Value = &text
	default:
		form.Base64 = base64.StdEncoding.EncodeToString(r.Value)
	}
	if r.Key != nil {
		text := string(r.Key)
		form.Key = &text
	}
	for _, h := range r.Headers {
		if form.Headers == nil {
			form.Headers = map[string]string{}
		}
		form.Headers[h.Key] = string(h.Value)
	}
	return json.Marshal(form)
}
