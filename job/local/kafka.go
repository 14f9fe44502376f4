package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/kafkatopics"
)

// checkKafka asks whether topics are there, before a sidecar is started, to say what is wrong with
// its place in the job file. What a resumed run reads is its source's to judge.
func checkKafka(ctx context.Context, spec *job.Spec, p parts, o Options) error {
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
	case spec.Source.Kafka != nil && !o.Resume && o.From == "":
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

// inSource adds to the failure of a record where it is, if its source knows.
func inSource(err error, source any) error {
	r, failed := errors.AsType[*async.RecordError](err)
	if !failed {
		return err
	}
	switch s := source.(type) {
	case interface {
		Partition(split int) (topic string, id int32, ok bool)
	}:
		if topic, id, ok := s.Partition(r.Split); ok {
			return fmt.Errorf("%w (it is the record of the topic %s, partition %d, offset %d)", err, topic, id, r.Position)
		}
	case interface {
		File(split int) (string, bool)
	}:
		if path, ok := s.File(r.Split); ok {
			return fmt.Errorf("%w (it is the record at byte %d of %s)", err, r.Position, path)
		}
	}
	return err
}

// newGroup is what a job from Kafka to Kafka reads, writes and keeps its checkpoints with.
func newGroup(spec *job.Spec, log *slog.Logger) (*kafka.Group, error) {
	k := spec.Source.Kafka
	c, err := kafkatopics.Brokers(spec, &k.Kafka, "source.kafka", log)
	if err != nil {
		return nil, err
	}
	cfg := kafka.GroupConfig{
		Config: c, Topics: kafkatopics.Of(spec), Group: k.Group, Instance: k.Instance,
		RebalanceTimeout: max(kafka.DefaultRebalanceTimeout, spec.StopTimeout),
		// A transaction lasts from one checkpoint to the next and through that one's drain.
		TransactionTimeout: cmp.Or(k.TransactionTimeout, max(kafka.DefaultTransactionTimeout, 3*interval(spec))),
		SessionTimeout:     k.SessionTimeout,
		Discover:           k.Discover,
		Compression:        kafkatopics.Compression(spec.Sink.Kafka),
		Partitioner:        kafkatopics.Partitioner(spec),
	}
	g := kafka.NewGroup(cfg)
	if err := g.Validate(); err != nil {
		return nil, spec.Fault("source.kafka", "%v", err)
	}
	return g, nil
}

// newKafkaSink is a sink at path: of the group, or one that writes at least once.
func newKafkaSink(spec *job.Spec, k *job.KafkaSink, path string, encode kafka.Encode[Record], g *kafka.Group, log *slog.Logger) (connector.Sink[Record], error) {
	if g != nil {
		return kafka.GroupSink(g, kafka.SinkConfig[Record]{Topic: k.Topic, Encode: encode, MaxRecord: k.MaxRecord}), nil
	}
	s, err := kafkatopics.NewSink(spec, k, path, encode, log)
	if err != nil {
		return nil, err // and no typed nil
	}
	return s, nil
}

// whereIn says which partitions a group's splits stand for; nil without one.
func whereIn(g *kafka.Group) kafkatopics.Where {
	if g == nil {
		return nil
	}
	return g.Partition
}
