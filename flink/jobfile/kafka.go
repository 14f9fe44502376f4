package jobfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/flink/internal/eventtime"
	"github.com/tensorferry/tensorferry/flink/internal/idle"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/kafkatopics"
)

func init() {
	register.DoFn3x1[context.Context, beam.EventTime, flink.Record, error](&kafkaFn{})
}

// live returns the source of a job that reads topics.
func (s shipped) live() (*kafka.Source[json.RawMessage], error) {
	return kafkatopics.NewSource(&s.Spec, slog.Default())
}

// discover is how often new partitions are looked for.
func (s shipped) discover() time.Duration {
	if d := s.Spec.Source.Kafka.Discover; d > 0 {
		return d
	}
	return kafka.DefaultDiscover
}

// A split's number has the partition's number in its lower bits. The upper bits number the topics
// in the order in which they were found. So the splits of a job with one topic have the numbers of
// its partitions.
const topicShift = 32

// number returns the number of a split. before are the splits that were found before it.
func number(s split, before ...[]split) (int64, error) {
	topic, id, err := kafka.PartitionOf(connector.Split{Data: s.Data})
	if err != nil {
		return 0, err
	}
	next := int64(0)
	for _, some := range before {
		for _, o := range some {
			t, _, err := kafka.PartitionOf(connector.Split{Data: o.Data})
			if err != nil {
				return 0, err
			}
			if t == topic {
				return o.Index>>topicShift<<topicShift | int64(id), nil
			}
			next = max(next, o.Index>>topicShift+1)
		}
	}
	return next<<topicShift | int64(id), nil
}

// where returns the partition of a split. The topic is known only if the job reads one topic.
func (s shipped) where(split int) (topic string, id int32, ok bool) {
	if k := s.Spec.Source.Kafka; len(k.Topics) == 1 {
		topic = k.Topics[0]
	}
	return topic, int32(split), true
}

// kafkaFn writes to a topic. A bundle ends when the brokers have all its records, so a checkpoint
// waits for them. What is repeated after a failure is written again: at least once.
//
// It holds a producer only while it writes. Within a bundle it may be idle for long, while the
// operator before it drains, and its producer would then count as abandoned.
type kafkaFn struct {
	Job     string
	Letters bool

	job  shipped
	key  string
	recs []async.Record[json.RawMessage]
	size int // bytes of recs
}

// writeRecords and writeBytes bound what is gathered before it is written.
const (
	writeRecords = 4096
	writeBytes   = 4 << 20
)

var writers idle.Pool[*topicWriter]

// topicWriter is a producer, kept between bundles.
type topicWriter struct {
	idle.Work
	w connector.Writer[json.RawMessage]
}

// Setup is called once for each instance.
func (f *kafkaFn) Setup() error {
	f.key = fmt.Sprint(f.Letters, f.Job)
	var err error
	f.job, err = arrived(f.Job)
	return err
}

// StartBundle forgets the records of an earlier bundle that never finished.
func (f *kafkaFn) StartBundle(context.Context) { f.forget() }

func (f *kafkaFn) forget() {
	clear(f.recs)
	f.recs, f.size = f.recs[:0], 0
}

// open makes a producer.
func (f *kafkaFn) open(ctx context.Context, index int) (*topicWriter, error) {
	spec := &f.job.Spec
	k, path, encode := spec.Sink.Kafka, "sink.kafka", kafkatopics.Encoder
	if f.Letters {
		k, path, encode = spec.DeadLetter.Kafka, "dead_letter.kafka", kafkatopics.LetterEncoder
	}
	sink, err := kafkatopics.NewSink(spec, k, path, encode(k, f.job.where), slog.Default())
	if err != nil {
		return nil, err
	}
	// Committer checks the topic.
	if _, err := sink.Committer(ctx); err != nil {
		return nil, err
	}
	w, err := sink.Open(context.Background(), async.Subtask{Operator: path, Index: index, Parallelism: index + 1})
	if err != nil {
		return nil, err
	}
	return &topicWriter{Work: idle.Since(time.Now()), w: w}, nil
}

// ProcessElement gathers records, and writes them when there are many.
func (f *kafkaFn) ProcessElement(ctx context.Context, at beam.EventTime, r flink.Record) error {
	f.recs = append(f.recs, async.Record[json.RawMessage]{
		Value: r.Value, Key: r.Key, Split: int(r.Split), Position: r.Position, Time: eventtime.FromBeam(at),
	})
	f.size += len(r.Value) + len(r.Key)
	if len(f.recs) < writeRecords && f.size < writeBytes {
		return nil
	}
	return f.write(ctx)
}

// write writes the gathered records, and returns when the brokers have them.
func (f *kafkaFn) write(ctx context.Context) error {
	defer f.forget()
	w, err := writers.Take(ctx, f.key, f.open)
	if err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	err = w.Do(func() error {
		if err := w.w.Write(f.recs); err != nil {
			return err
		}
		_, err := w.w.Prepare(ctx, 1)
		return err
	})
	if err != nil {
		writers.Drop(w)
		return fmt.Errorf("sink: %w", err)
	}
	writers.Give(w)
	return nil
}

// FinishBundle waits until the brokers have everything.
func (f *kafkaFn) FinishBundle(ctx context.Context) error {
	if len(f.recs) == 0 {
		return nil
	}
	return f.write(ctx)
}

// Close implements idle.Thing.
func (t *topicWriter) Close() error { return t.End(t.w.Close) }

// checkKafka reports what Flink does not support in a job file's kafka section.
func checkKafka(spec *job.Spec, refuse func(path, format string, args ...any)) {
	k := spec.Source.Kafka
	if k == nil {
		return
	}
	if k.Watermark != 0 {
		refuse("source.kafka.watermark", "want no watermark on Flink: nothing in the job waits for watermarks")
	}
	// Find other faults here: on the workers they would fail every attempt. Certificates and
	// passwords are left out, because only the workers need to have them.
	open := *k
	open.TLS, open.SASL = nil, nil
	if _, err := kafkatopics.NewSource(&job.Spec{Name: spec.Name, Source: job.Source{Kafka: &open}}, slog.Default()); err != nil {
		var f job.Fault
		if errors.As(err, &f) {
			refuse("source.kafka", "%s", strings.TrimPrefix(f.Message, "source.kafka: "))
		}
	}
	least := 10 * time.Millisecond // Flink accepts no less
	if c := &spec.Checkpoint; c.Interval > 0 && c.Interval < least {
		refuse("checkpoint.interval", "want %v or more on Flink, found %v", least, c.Interval)
	}
	if c := &spec.Checkpoint; c.Timeout > 0 && c.Timeout < least {
		refuse("checkpoint.timeout", "want %v or more on Flink, found %v", least, c.Timeout)
	}
}
