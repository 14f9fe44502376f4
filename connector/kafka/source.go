package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/brief"
	"github.com/tensorferry/tensorferry/stream"
)

// DefaultDiscover is how often a source looks for new partitions.
const DefaultDiscover = time.Minute

// SourceConfig describes a source. Brokers, topics and Decode must be set.
type SourceConfig[T any] struct {
	Config
	Topics
	// Discover is how often the brokers are asked for new partitions, and topics that match. Default 1 min.
	Discover time.Duration
	// Uncommitted reads what transactions have written before they are committed. Default: only what was committed.
	Uncommitted bool
	Decode      Decode[T]
}

// Source reads the partitions of topics, without an end; their offsets are in the job's checkpoints. It belongs to no
// consumer group. Use a Group where results go to Kafka. It is safe for concurrent use.
type Source[T any] struct {
	cfg   SourceConfig[T]
	match func(string) bool
	err   error

	lags lags

	mu    sync.Mutex
	known map[partition]bool // as of the last Assign
	cut   []partition        // the splits of the last Assign
}

// Partition returns the partition that a split of a job stands for, once it runs.
func (s *Source[T]) Partition(split int) (topic string, id int32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if split < 0 || split >= len(s.cut) {
		return "", 0, false
	}
	return s.cut[split].Topic, s.cut[split].ID, true
}

// Lag returns how many records of the partitions that are read now have not been read; false while nobody knows yet.
func (s *Source[T]) Lag() (records int64, known bool) { return s.lags.total() }

// lags are how far readers are behind.
type lags struct {
	mu sync.Mutex
	of map[partition]int64
}

func (l *lags) set(p partition, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[partition]int64{}
	}
	l.of[p] = max(n, 0)
}

func (l *lags) forget(p partition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.of, p)
}

func (l *lags) total() (n int64, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.of {
		n += v
	}
	return n, len(l.of) > 0
}

// NewSource returns a source. What is wrong with the configuration is reported when the job starts.
func NewSource[T any](c SourceConfig[T]) *Source[T] {
	s := &Source[T]{cfg: c}
	var errs [4]error
	s.cfg.Config, errs[0] = c.Config.resolve()
	s.match, errs[1] = c.Topics.resolve()
	if c.Decode == nil {
		errs[2] = errors.New("kafka: no function decodes records")
	}
	if c.Discover < 0 {
		errs[3] = fmt.Errorf("kafka: new partitions are looked for every %v; want more than 0, or 0 for %v", c.Discover, DefaultDiscover)
	} else if c.Discover == 0 {
		s.cfg.Discover = DefaultDiscover
	}
	s.err = errors.Join(errs[:]...)
	return s
}

// Validate says what is wrong with the configuration.
func (s *Source[T]) Validate() error { return s.err }

// ask calls f with a client for questions, within the timeout.
func (s *Source[T]) ask(ctx context.Context, f func(context.Context, *listing) error) error {
	if s.err != nil {
		return s.err
	}
	cl, err := s.cfg.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	return f(ctx, newListing(&s.cfg.Config, cl, s.cfg.Topics, s.match))
}

// Splits implements stream.Source.
func (s *Source[T]) Splits(ctx context.Context) (splits []stream.Split, err error) {
	err = s.ask(ctx, func(ctx context.Context, l *listing) error {
		all, err := l.partitions(ctx)
		if err != nil {
			return err
		}
		at, err := l.offsets(ctx, s.cfg.Start, all)
		for _, p := range all {
			splits = append(splits, p.split(at[p]))
		}
		return err
	})
	return splits, err
}

// lostError says that records are gone which had not been read. No restart brings them back.
type lostError struct {
	partition   partition
	next, first int64
}

func (e *lostError) Error() string {
	now := ""
	if e.first >= 0 {
		now = fmt.Sprintf("; the first there is now is %d", e.first)
	}
	return fmt.Sprintf("kafka: %s: the records from offset %d on were not read yet and are gone%s; "+
		"keep them for longer (retention), or start afresh and accept the loss", e.partition, e.next, now)
}

func (e *lostError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// Verify implements stream.Source. It refuses partitions that are gone, and offsets whose records are.
func (s *Source[T]) Verify(ctx context.Context, splits []stream.Split, next []int64) error {
	return s.ask(ctx, func(ctx context.Context, l *listing) error {
		var all []partition
		for _, split := range splits {
			p, err := partitionOf(split)
			if err != nil {
				return err
			}
			all = append(all, p)
		}
		first, err := l.offsets(ctx, Earliest, all)
		if err != nil {
			return err
		}
		end, err := l.offsets(ctx, Latest, all)
		if err != nil {
			return err
		}
		for i, p := range all {
			if next[i] < first[p] {
				return &lostError{p, next[i], first[p]}
			}
			if next[i] > end[p] {
				return fmt.Errorf("kafka: %s ends at offset %d and was read up to %d; it is not the one that was read; put the old one back, or start afresh",
					p, end[p], next[i])
			}
		}
		return nil
	})
}

// Changed implements stream.Elastic: it returns when there are partitions that were not there before.
func (s *Source[T]) Changed(ctx context.Context) error {
	for wait(ctx, s.cfg.Discover) {
		more := false
		err := s.ask(ctx, func(ctx context.Context, l *listing) error {
			all, err := l.partitions(ctx)
			s.mu.Lock()
			defer s.mu.Unlock()
			more = slices.ContainsFunc(all, func(p partition) bool { return !s.known[p] })
			return err
		})
		if more {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("kafka: new partitions were not looked for", "error", err)
		}
	}
	return ctx.Err()
}

// wait returns false if ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Assign implements stream.Elastic. Partitions that no split has yet come behind the others, and are read from their first record.
func (s *Source[T]) Assign(ctx context.Context, splits []stream.Split, next []int64) ([]stream.Split, []int64, error) {
	err := s.ask(ctx, func(ctx context.Context, l *listing) error {
		all, err := l.partitions(ctx)
		if err != nil {
			return err
		}
		known := map[partition]bool{}
		var cut []partition
		for _, split := range splits {
			p, err := partitionOf(split)
			if err != nil {
				return err
			}
			known[p], cut = true, append(cut, p)
		}
		all = slices.DeleteFunc(all, func(p partition) bool { return known[p] })
		first, err := l.offsets(ctx, Earliest, all)
		if err != nil {
			return err
		}
		for _, p := range all {
			splits, next, known[p] = append(splits, p.split(first[p])), append(next, first[p]), true
		}
		s.mu.Lock()
		s.known, s.cut = known, append(cut, all...)
		s.mu.Unlock()
		return nil
	})
	return splits, next, err
}

// Open implements stream.Source. It is not used: partitions have no end.
func (s *Source[T]) Open(context.Context, stream.Split, int64) (stream.Reader[T], error) {
	return nil, errors.New("kafka: partitions are read together")
}

// OpenAll implements stream.Live.
func (s *Source[T]) OpenAll(ctx context.Context, splits []stream.LiveSplit) (stream.LiveReader[T], error) {
	if s.err != nil {
		return nil, s.err
	}
	return openReader(&s.cfg.Config, s.cfg.Decode, s.cfg.Traces, !s.cfg.Uncommitted, &s.lags, splits)
}

// reader reads partitions from given offsets.
type reader[T any] struct {
	cl     *kgo.Client
	decode Decode[T]
	traces bool
	index  map[partition]int
	next   map[partition]int64
	rest   []fetched // and not yet handed out

	committed bool // only what was committed is read
	lags      *lags
}

// fetched are records of a partition.
type fetched struct {
	partition partition
	recs      []*Record
	next      int64 // behind recs, and what else stands there
	end       int64 // of the partition
}

func openReader[T any](c *Config, decode Decode[T], traces, committed bool, behind *lags, splits []stream.LiveSplit) (*reader[T], error) {
	r := &reader[T]{decode: decode, traces: traces, committed: committed, lags: behind, index: map[partition]int{}, next: map[partition]int64{}}
	from := map[string]map[int32]kgo.Offset{}
	for _, s := range splits {
		p, err := partitionOf(s.Split)
		if err != nil {
			return nil, err
		}
		r.index[p], r.next[p] = s.Index, s.Position
		if from[p.Topic] == nil {
			from[p.Topic] = map[int32]kgo.Offset{}
		}
		from[p.Topic][p.ID] = kgo.NewOffset().At(s.Position)
	}
	opts := []kgo.Opt{
		kgo.ConsumePartitions(from),
		// An offset that is gone is a loss, which somebody must hear of.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		// The ends of transactions are no records, and have offsets: a position in front of one would stay behind for ever, and point to what is
		// deleted one day.
		kgo.KeepControlRecords(),
		kgo.FetchMaxBytes(16 << 20), kgo.FetchMaxPartitionBytes(1 << 20),
	}
	if committed {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	var err error
	r.cl, err = c.client(opts...)
	return r, err
}

// Read implements stream.LiveReader.
func (r *reader[T]) Read(ctx context.Context, dst []stream.Record[T], most int) (int, []stream.Record[T], int64, error) {
	for len(r.rest) == 0 {
		fetches := r.cl.PollRecords(ctx, 16*most)
		// Records that came as ctx ended must not be thrown away: the client does not hand them out again, and a reader may be used after a
		// Read that ended.
		if err := ctx.Err(); err != nil && fetches.Err0() == err {
			return 0, dst, 0, err
		}
		var failed error
		var at partition
		fetches.EachError(func(topic string, id int32, err error) {
			p := partition{topic, id}
			if failed == nil {
				at = p
			}
			switch {
			case failed != nil:
			case errors.Is(err, kerr.OffsetOutOfRange):
				failed = &lostError{partition: p, next: r.next[p], first: -1}
			default:
				failed = fmt.Errorf("kafka: reading %s from offset %d on: %w", p, r.next[p], brief.Error(err))
				if isPassing(err) {
					failed = unanswered{failed}
				}
			}
		})
		if failed != nil {
			return r.index[at], dst, r.next[at], failed
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			n := len(p.Records)
			if n == 0 {
				return
			}
			f := fetched{partition: partition{p.Topic, p.Partition}, next: p.Records[n-1].Offset + 1, end: p.HighWatermark}
			if r.committed {
				f.end = p.LastStableOffset
			}
			f.recs = slices.DeleteFunc(p.Records, func(k *Record) bool { return k.Attrs.IsControl() })
			r.rest = append(r.rest, f)
		})
	}
	// Partitions take turns: what is left of this one goes behind the others.
	f := r.rest[0]
	r.rest = r.rest[1:]
	recs, next := f.recs, f.next
	if len(recs) > most {
		f.recs = recs[most:]
		recs, next = recs[:most], f.recs[0].Offset
		r.rest = append(r.rest, f)
	}
	p := f.partition
	index, ok := r.index[p]
	if !ok {
		return 0, dst, 0, fmt.Errorf("kafka: records of %s, which was not asked for", p)
	}
	dst, err := convert(r.decode, r.traces, recs, dst)
	if err != nil {
		return index, dst, r.next[p], err
	}
	r.next[p] = next
	r.lags.set(p, f.end-next)
	return index, dst, next, nil
}

// Close implements stream.LiveReader.
func (r *reader[T]) Close() error {
	r.cl.Close()
	for p := range r.index {
		r.lags.forget(p)
	}
	return nil
}
