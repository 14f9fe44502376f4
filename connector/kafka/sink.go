package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// SinkConfig describes a sink. Brokers and Encode must be set; the sink of a Group needs no
// brokers.
type SinkConfig[T any] struct {
	// Config says how to reach Kafka. The sink of a Group does not use it.
	Config
	// Topic receives the records for which Encode sets no topic.
	Topic string
	// Encode makes the record of a result.
	Encode Encode[T]
	// Partitioner chooses the partition of a record. Default: the hash of the key, as in
	// Kafka's own clients; records without a key go to one partition for a while, then to
	// another.
	Partitioner kgo.Partitioner
	// Compression lists codecs in the order of preference. Default: snappy, or no compression
	// if the brokers do not support it.
	Compression []kgo.CompressionCodec
	// MaxRecord is the largest size of a record in bytes, as Size counts. A larger record is
	// refused, as its own fault. Default 1,000,000, which brokers accept by default; at most 64
	// MiB. If the topic allows less (max.message.bytes), the job fails when it starts.
	MaxRecord int
	// MaxHeld is how much a subtask holds back while a checkpoint is completed, in bytes of
	// keys and values. Default 16 MiB. Only the sink of a Group uses it.
	MaxHeld int

	// batch is how many bytes are sent to a partition at once; 0: as many as the largest record
	// has.
	batch int
}

// DefaultMaxHeld is how much a subtask holds back while a checkpoint is completed.
const DefaultMaxHeld = 16 << 20

// DefaultMaxRecord is the largest size of a record, in bytes.
const DefaultMaxRecord = 1_000_000

const (
	mostRecord = 64 << 20
	// overhead is how many bytes a batch of one record has beyond those that Size counts.
	overhead = 128
)

func (c *SinkConfig[T]) check() error {
	var errs []error
	if c.Encode == nil {
		errs = append(errs, errors.New("kafka: the sink has no Encode; set one, such as kafka.JSONValue or kafka.RawValue"))
	}
	if c.MaxHeld < 0 {
		errs = append(errs, fmt.Errorf("kafka: the bound of the results that a subtask holds back is %d bytes; want 1 or more, or 0 for %d", c.MaxHeld, DefaultMaxHeld))
	}
	if c.MaxHeld == 0 {
		c.MaxHeld = DefaultMaxHeld
	}
	if c.MaxRecord < 0 || c.MaxRecord > mostRecord {
		errs = append(errs, fmt.Errorf("kafka: the bound of a record is %d bytes; want 1 to %d, or 0 for %d", c.MaxRecord, mostRecord, DefaultMaxRecord))
	}
	if c.MaxRecord == 0 {
		c.MaxRecord = DefaultMaxRecord
	}
	return errors.Join(errs...)
}

// batchBytes returns how many bytes may be sent to a partition at once. A client needs at least
// 512.
func (c *SinkConfig[T]) batchBytes() int { return max(c.batch, c.MaxRecord+overhead, 512) }

// reach checks that the sink's topic exists and takes its records, and finds out how many bytes it
// takes at once.
func (c *SinkConfig[T]) reach(ctx context.Context, cfg *Config, cl *kgo.Client) error {
	if c.Topic == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	l := newListing(cfg, cl, Topics{Names: []string{c.Topic}}, func(string) bool { return true })
	if _, err := l.partitions(ctx); err != nil {
		return err
	}
	most, known := l.maxMessage(ctx, c.Topic)
	if !known {
		return nil
	}
	c.batch = min(most, max(c.MaxRecord, DefaultMaxRecord)+overhead)
	if most < c.MaxRecord+overhead {
		return permanentError(fmt.Sprintf("kafka: the topic %s takes records of at most %d bytes (max.message.bytes), but the sink may write records of %d bytes; "+
			"set the largest record to %d bytes or less, or raise the limit of the topic", c.Topic, most, c.MaxRecord, most-overhead))
	}
	return nil
}

// producing returns the options of a client that writes. broke gets the failures of the
// Partitioner.
func (c *SinkConfig[T]) producing(broke func(error)) []kgo.Opt {
	// Records wait in the client while brokers are slow or away. By default the client bounds only
	// their number.
	opts := []kgo.Opt{kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MaxBufferedBytes(mostRecord + overhead)}
	if c.MaxRecord > 0 { // a Group has several sinks
		opts = append(opts, kgo.ProducerBatchMaxBytes(int32(c.batchBytes())))
	}
	if c.Topic != "" {
		opts = append(opts, kgo.DefaultProduceTopic(c.Topic))
	}
	if c.Partitioner != nil {
		opts = append(opts, kgo.RecordPartitioner(guardedPartitioner(c.Partitioner, broke)))
	}
	if len(c.Compression) > 0 {
		opts = append(opts, kgo.ProducerBatchCompression(c.Compression...))
	}
	return opts
}

// encode makes the record of a result.
func (c *SinkConfig[T]) encode(r *async.Record[T]) (*Record, error) {
	var k *Record
	err := guard.Call("Encode of the sink", func() (err error) {
		k, err = c.Encode(r)
		return err
	})
	if err == nil && k == nil {
		err = errors.New("Encode returned neither a record nor an error")
	}
	if err == nil && k.Topic == "" && c.Topic == "" {
		err = errors.New("the record has no topic, and the sink has no topic")
	}
	if err == nil && Size(k) > c.MaxRecord {
		err = fmt.Errorf("the record has %d bytes; the largest record is %d bytes", Size(k), c.MaxRecord)
	}
	if err != nil {
		return nil, &recordError{r.Split, r.Position, err}
	}
	if r.Trace.Sampled() {
		// A record must not become too large because it is traced.
		was := k.Headers
		if k.Headers = withContext(was, r.Trace); Size(k) > c.MaxRecord {
			k.Headers = was
		}
	}
	return k, nil
}

// recordError says which record cannot be written. It is the record's own fault.
type recordError struct {
	split    int
	position int64
	err      error
}

func (e *recordError) Error() string {
	return fmt.Sprintf("kafka: the result of split %d, position %d cannot be written: %v", e.split, e.position, e.err)
}

func (e *recordError) Unwrap() error { return e.err }

// Verdict makes a recordError an async.Failure.
func (e *recordError) Verdict() async.Verdict { return async.Verdict{Class: async.BadRecord} }

// failures keeps the first failure to write.
type failures struct {
	mu  sync.Mutex
	err error
}

func (f *failures) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *failures) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// written is called with the outcome of each record's write.
func (f *failures) written(k *Record, err error, split int, position int64) {
	switch {
	case err == nil:
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge), errors.Is(err, kerr.InvalidRecord):
		f.set(&recordError{split, position, fmt.Errorf("topic %s: %w", k.Topic, err)})
	default:
		f.set(fmt.Errorf("kafka: writing to the topic %s: %w", k.Topic, refused(err)))
	}
}

// Sink writes results when they come. A checkpoint is complete only when the brokers have all
// results before it. After a failure the results since the last checkpoint are written once more:
// at least once. A Sink is safe for concurrent use.
type Sink[T any] struct {
	cfg SinkConfig[T]
	err error
}

// NewSink returns a sink. A mistake in the configuration is reported when the job starts.
func NewSink[T any](c SinkConfig[T]) *Sink[T] {
	s := &Sink[T]{cfg: c}
	var err error
	s.cfg.Config, err = c.Config.resolve()
	s.err = errors.Join(err, s.cfg.check())
	return s
}

// Validate says what is wrong with the configuration.
func (s *Sink[T]) Validate() error { return s.err }

// Open implements connector.Sink.
func (s *Sink[T]) Open(ctx context.Context, _ async.Subtask) (connector.Writer[T], error) {
	if s.err != nil {
		return nil, s.err
	}
	w := &writer[T]{cfg: &s.cfg, ctx: ctx}
	var err error
	if w.cl, err = s.cfg.client(s.cfg.producing(w.failed.set)...); err != nil {
		return nil, err
	}
	return w, nil
}

// Committer implements connector.Sink.
func (s *Sink[T]) Committer(ctx context.Context) (connector.Committer, error) {
	if s.err != nil {
		return nil, s.err
	}
	cl, err := s.cfg.client()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return nothing{}, s.cfg.reach(ctx, &s.cfg.Config, cl)
}

type writer[T any] struct {
	cfg    *SinkConfig[T]
	cl     *kgo.Client
	ctx    context.Context
	failed failures
}

// Write implements connector.Writer.
func (w *writer[T]) Write(recs []async.Record[T]) error {
	for i := range recs {
		k, err := w.cfg.encode(&recs[i])
		if err != nil {
			return err
		}
		split, position := recs[i].Split, recs[i].Position
		w.cl.Produce(w.ctx, k, func(k *Record, err error) { w.failed.written(k, err, split, position) })
	}
	return w.failed.get()
}

// Prepare implements connector.Writer. It waits until the brokers have everything.
func (w *writer[T]) Prepare(ctx context.Context, _ int64) ([]connector.Pending, error) {
	if err := w.cl.Flush(ctx); err != nil {
		return nil, fmt.Errorf("kafka: waiting for the brokers: %w", err)
	}
	return nil, w.failed.get()
}

// Close implements connector.Writer.
func (w *writer[T]) Close() error {
	w.cl.Close()
	return nil
}

// nothing is the Committer of sinks that have nothing to publish.
type nothing struct{}

func (nothing) Begin(context.Context, []byte) ([]byte, error) { return nil, nil }
func (nothing) Plan(state []byte, _ []connector.Pending) (next, plan []byte, err error) {
	return state, nil, nil
}
func (nothing) Commit(context.Context, []byte) error { return nil }
func (nothing) Clean(context.Context) error          { return nil }
func (nothing) Close() error                         { return nil }
