package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tensorferry/tensorferry/connector"
)

// DefaultDiscover is how often a source looks for new partitions.
const DefaultDiscover = time.Minute

// SourceConfig describes a source. Brokers, the topics and Decode must be set.
type SourceConfig[T any] struct {
	Config
	Topics
	// Decode makes a value of a record.
	Decode Decode[T]
	// Discover is how often the source asks the brokers for new partitions, and for new topics
	// that the pattern matches. Default 1 min.
	Discover time.Duration
	// Uncommitted says that records of transactions that are not committed are read too.
	// Default: only committed records are read.
	Uncommitted bool
}

// Source reads the partitions of topics, without an end. The job's checkpoints keep the offsets,
// and the source does not belong to a consumer group. Use a Group if the results go to Kafka. A
// Source is safe for concurrent use.
type Source[T any] struct {
	cfg   SourceConfig[T]
	match func(string) bool
	err   error

	lags    lags
	skipped skipped

	mu    sync.Mutex
	known map[partition]bool // as of the last Assign
	cut   []partition        // the splits of the last Assign
}

// Partition returns the partition of a split, by the split's number in the job that was started
// last.
func (s *Source[T]) Partition(split int) (topic string, id int32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if split < 0 || split >= len(s.cut) {
		return "", 0, false
	}
	return s.cut[split].Topic, s.cut[split].ID, true
}

// Lag returns how many records of the partitions that are read now have not been read yet. known is
// false until the brokers have said so.
func (s *Source[T]) Lag() (records int64, known bool) { return s.lags.total() }

// lags says how many records of each partition have not been read yet.
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

// NewSource returns a source. A mistake in the configuration is reported when the job starts.
func NewSource[T any](c SourceConfig[T]) *Source[T] {
	s := &Source[T]{cfg: c}
	var errs [4]error
	s.cfg.Config, errs[0] = c.Config.resolve()
	s.match, errs[1] = c.Topics.resolve()
	if c.Decode == nil {
		errs[2] = errNoDecode
	}
	if c.Discover < 0 {
		errs[3] = fmt.Errorf("kafka: the discovery interval is %v; want more than 0, or 0 for %v", c.Discover, DefaultDiscover)
	} else if c.Discover == 0 {
		s.cfg.Discover = DefaultDiscover
	}
	s.err = errors.Join(errs[:]...)
	return s
}

// Validate says what is wrong with the configuration.
func (s *Source[T]) Validate() error { return s.err }

var (
	errNoDecode = errors.New("kafka: the source has no Decode; set one, such as kafka.JSON or kafka.Raw")
	errTogether = errors.New("kafka: partitions are read together; use OpenAll")
)

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

// Splits implements connector.Source.
func (s *Source[T]) Splits(ctx context.Context) (splits []connector.Split, err error) {
	err = s.ask(ctx, func(ctx context.Context, l *listing) error {
		all, err := l.partitions(ctx)
		if err != nil {
			return err
		}
		at, err := l.offsets(ctx, s.cfg.Start, all)
		splits = l.splits(all, at, s.cfg.Start.kind == earliest)
		return err
	})
	return splits, err
}

// Verify implements connector.Source. It refuses a partition that is gone. It also refuses an
// offset whose record is gone, unless OnExpired says that such records are skipped.
func (s *Source[T]) Verify(ctx context.Context, splits []connector.Split, next []int64) error {
	if s.cfg.OnExpired == SkipExpired {
		return s.err // Assign skips them
	}
	return s.ask(ctx, func(ctx context.Context, l *listing) error {
		_, _, err := s.locate(ctx, l, splits, next, nil) // nothing is skipped here
		return err
	})
}

// Locate checks whether the records at the positions of splits are still there. If a record is gone
// and OnExpired says so, Locate returns the position at which reading goes on; otherwise it returns
// an error that says what is lost. The splits that it returns may name their topics more exactly.
func (s *Source[T]) Locate(ctx context.Context, splits []connector.Split, next []int64) (now []connector.Split, from []int64, err error) {
	err = s.ask(ctx, func(ctx context.Context, l *listing) error {
		now, from, err = s.locate(ctx, l, splits, next, &s.skipped)
		return err
	})
	return now, from, err
}

func (s *Source[T]) locate(ctx context.Context, l *listing, splits []connector.Split, next []int64, count *skipped) (now []connector.Split, from []int64, err error) {
	var all []placed
	for i, split := range splits {
		p, err := placedAt(split, next[i])
		if err != nil {
			return nil, nil, err
		}
		all = append(all, p)
	}
	if err := l.locate(ctx, all, s.cfg.OnExpired, count); err != nil {
		return nil, nil, err
	}
	for i, p := range all {
		start := splits[i].Start
		if p.first {
			start = p.next // the partition begins there now
		}
		now, from = append(now, p.split(start)), append(from, p.next)
	}
	return now, from, nil
}

// Skipped returns how many records were skipped because they were gone before they could be read
// (SkipExpired).
func (s *Source[T]) Skipped() int64 { return s.skipped.n.Load() }

// Changed implements connector.Rebalancing. It returns when there are new partitions.
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
			s.cfg.Logger.Warn("kafka: cannot look for new partitions; trying again", "error", err)
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

// Assign implements connector.Rebalancing. Partitions that have no split yet come behind the
// others, and are read from their first record.
func (s *Source[T]) Assign(ctx context.Context, splits []connector.Split, next []int64) ([]connector.Split, []int64, error) {
	err := s.ask(ctx, func(ctx context.Context, l *listing) (err error) {
		if splits, next, err = s.locate(ctx, l, splits, next, &s.skipped); err != nil {
			return err
		}
		more, err := s.appeared(ctx, l, splits)
		for _, split := range more {
			splits, next = append(splits, split), append(next, split.Start)
		}
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
		s.mu.Lock()
		s.known, s.cut = known, cut
		s.mu.Unlock()
		return nil
	})
	return splits, next, err
}

// Appeared returns the partitions that are not among splits. They are read from their first record.
func (s *Source[T]) Appeared(ctx context.Context, splits []connector.Split) (more []connector.Split, err error) {
	err = s.ask(ctx, func(ctx context.Context, l *listing) error {
		more, err = s.appeared(ctx, l, splits)
		return err
	})
	return more, err
}

func (s *Source[T]) appeared(ctx context.Context, l *listing, splits []connector.Split) (more []connector.Split, err error) {
	all, err := l.partitions(ctx)
	if err != nil {
		return nil, err
	}
	known := map[partition]bool{}
	for _, split := range splits {
		p, err := partitionOf(split)
		if err != nil {
			return nil, err
		}
		known[p] = true
	}
	all = slices.DeleteFunc(all, func(p partition) bool { return known[p] })
	first, err := l.offsets(ctx, Earliest, all)
	if err != nil {
		return nil, err
	}
	return l.splits(all, first, true), nil
}

// Open implements connector.Source. It always fails: partitions have no end, so OpenAll reads them.
func (s *Source[T]) Open(context.Context, connector.Split, int64) (connector.Reader[T], error) {
	return nil, errTogether
}

// OpenAll implements connector.Unbounded.
func (s *Source[T]) OpenAll(ctx context.Context, splits []connector.AssignedSplit) (connector.UnboundedReader[T], error) {
	if s.err != nil {
		return nil, s.err
	}
	return openReader(&s.cfg.Config, &s.cfg.Topics, s.cfg.Decode, !s.cfg.Uncommitted, &s.lags, &s.skipped, splits)
}
