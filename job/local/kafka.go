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

// checkKafka checks that the topics exist, before a sidecar starts, so that an error has its place
// in the job file. For a resumed run, the source itself checks what it reads.
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

// inSource adds a record's place to its failure, if the source knows the place.
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
			return fmt.Errorf("%w (the record is in the topic %s, partition %d, offset %d)", err, topic, id, r.Position)
		}
	case interface {
		File(split int) (string, bool)
	}:
		if path, ok := s.File(r.Split); ok {
			return fmt.Errorf("%w (the record is at byte %d of %s)", err, r.Position, path)
		}
	}
	return err
}

// newGroup makes the group that reads, writes and keeps offsets for a job from Kafka to Kafka.
func newGroup(spec *job.Spec, log *slog.Logger) (*kafka.Group, error) {
	k := spec.Source.Kafka
	c, err := kafkatopics.Brokers(spec, &k.Kafka, "source.kafka", log)
	if err != nil {
		return nil, err
	}
	cfg := kafka.GroupConfig{
		Config: c, Topics: kafkatopics.Of(spec), Group: k.Group, Instance: k.Instance,
		RebalanceTimeout: max(kafka.DefaultRebalanceTimeout, spec.StopTimeout),
		// A transaction lasts from one checkpoint to the end of the next, drain included.
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

// newKafkaSink makes the sink of the section at path: the group's, or one that writes at least
// once.
func newKafkaSink(spec *job.Spec, k *job.KafkaSink, path string, encode kafka.Encode[Record], g *kafka.Group, log *slog.Logger) (connector.Sink[Record], error) {
	if g != nil {
		return kafka.GroupSink(g, kafka.SinkConfig[Record]{Topic: k.Topic, Encode: encode, MaxRecord: k.MaxRecord}), nil
	}
	s, err := kafkatopics.NewSink(spec, k, path, encode, log)
	if err != nil {
		return nil, err // not a typed nil
	}
	return s, nil
}

// whereIn returns how a group's splits become partitions, or nil without a group.
func whereIn(g *kafka.Group) kafkatopics.Where {
	if g == nil {
		return nil
	}
	return g.Partition
}
