package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/brief"
)

// reader reads partitions from given offsets.
type reader[T any] struct {
	cfg    *Config
	topics *Topics
	cl     *kgo.Client
	decode Decode[T]
	index  map[partition]int
	next   map[partition]int64
	ids    map[partition]topicID
	first  map[partition]bool // the position is that of the first record, and nothing was read yet
	rest   []fetched          // not yet returned by Read
	failed *failedFetch

	committed bool // only committed records are read
	lags      *lags
	skipped   *skipped
}

// fetched are records of a partition.
type fetched struct {
	partition partition
	recs      []*Record
	next      int64 // the offset behind recs and the control records between them
	end       int64 // of the partition
}

// failedFetch is a failure that the client reported. The client may report it only once.
type failedFetch struct {
	partition partition
	err       error
}

func openReader[T any](c *Config, t *Topics, decode Decode[T], committed bool, behind *lags, gone *skipped, splits []connector.AssignedSplit) (*reader[T], error) {
	r := &reader[T]{
		cfg: c, topics: t, decode: decode, committed: committed, lags: behind, skipped: gone,
		index: map[partition]int{}, next: map[partition]int64{}, ids: map[partition]topicID{},
		first: map[partition]bool{},
	}
	for _, s := range splits {
		p, err := placedAt(s.Split, s.Position)
		if err != nil {
			return nil, err
		}
		r.index[p.partition], r.next[p.partition], r.ids[p.partition], r.first[p.partition] = s.Index, s.Position, p.id, p.first
	}
	return r, r.open()
}

// open makes the client, which goes on after the records that Read has returned.
func (r *reader[T]) open() (err error) {
	from := map[string]map[int32]kgo.Offset{}
	for p, at := range r.next {
		if from[p.Topic] == nil {
			from[p.Topic] = map[int32]kgo.Offset{}
		}
		from[p.Topic][p.ID] = kgo.NewOffset().At(at)
	}
	opts := []kgo.Opt{
		kgo.ConsumePartitions(from),
		// An offset that is gone is a loss. The client must report it, and not skip it.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		// Transaction markers are not records but have offsets. Without them, a position before a
		// marker would stay there for ever, and the marker will be deleted one day.
		kgo.KeepControlRecords(),
		kgo.FetchMaxBytes(16 << 20), kgo.FetchMaxPartitionBytes(1 << 20),
	}
	if r.committed {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	r.cl, err = r.cfg.client(opts...)
	return err
}

// Read implements connector.UnboundedReader.
func (r *reader[T]) Read(ctx context.Context, dst []async.Record[T], most int) (int, []async.Record[T], int64, error) {
	for len(r.rest) == 0 {
		if r.failed == nil {
			if err := r.fetch(ctx, most); err != nil {
				return 0, dst, 0, err
			}
		}
		if r.failed == nil {
			continue
		}
		at := r.failed.partition
		if err := r.judge(ctx, at, r.failed.err); ctx.Err() != nil {
			return 0, dst, 0, ctx.Err() // the next Read judges the failure
		} else if err != nil {
			return r.index[at], dst, r.next[at], err
		}
		r.failed = nil
	}
	// Partitions take turns: the rest of this one goes behind the others.
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
		return 0, dst, 0, fmt.Errorf("kafka: the client returned records of %s, which this subtask does not read", p)
	}
	dst, err := convert(r.decode, r.topics.Traces, recs, dst)
	if err != nil {
		return index, dst, r.next[p], err
	}
	r.next[p], r.first[p] = next, false
	r.lags.set(p, f.end-next)
	return index, dst, next, nil
}

// fetch takes the records that the client has, or remembers a failure that it reports.
func (r *reader[T]) fetch(ctx context.Context, most int) error {
	fetches := r.cl.PollRecords(ctx, 16*most)
	// Records that came as ctx ended must be kept: the client does not return them again, and the
	// reader may be used after a Read that ended.
	if err := ctx.Err(); err != nil && fetches.Err0() == err {
		return err
	}
	fetches.EachError(func(topic string, id int32, err error) {
		if r.failed == nil {
			r.failed = &failedFetch{partition{topic, id}, err}
		}
	})
	if r.failed != nil {
		return nil // the failure is judged before the client is used again
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
	return nil
}

// judge decides what follows a failure. It returns nil if reading goes on, with a new client.
func (r *reader[T]) judge(ctx context.Context, p partition, err error) error {
	cut, isCut := errors.AsType[*kgo.ErrDataLoss](err)
	if isCut || errors.Is(err, kerr.OffsetOutOfRange) || errors.Is(err, kerr.UnknownTopicID) {
		at := placed{p, r.ids[p], r.next[p], r.first[p]}
		there, is, asked := r.ask(ctx, at)
		if asked != nil {
			return asked
		}
		lost, to := at.lost(there, is), there.first
		if isCut && lost == nil {
			// Brokers have lost the records from cut.ResetTo on. Other records have their offsets
			// now.
			to = cut.ResetTo
			lost = &lostError{partition: p, next: cut.ConsumedTo, extent: extent{there.first, to}}
		}
		switch {
		case lost == nil:
		case at.begins(lost):
			r.skipped.began(r.cfg.Logger, at, to)
			return r.goOn(p, to)
		case r.topics.OnExpired != SkipExpired:
			return lost
		case lost.was != lost.is:
			return unanswered{lost} // the next attempt reads the new topic
		default:
			r.skipped.skip(r.cfg.Logger, lost, to)
			r.first[p] = false
			return r.goOn(p, to)
		}
	}
	failed := fmt.Errorf("kafka: reading %s from offset %d on: %w", p, r.next[p], brief.Error(err))
	if isPassing(err) || errors.Is(err, kerr.OffsetOutOfRange) { // the offset is in range again
		return unanswered{failed}
	}
	return failed
}

// goOn goes on reading at another offset of a partition.
func (r *reader[T]) goOn(p partition, at int64) error {
	r.cl.Close()
	r.next[p] = at
	return r.open()
}

// ask asks which part of a partition exists, and for the id of its topic.
func (r *reader[T]) ask(ctx context.Context, p placed) (there extent, is topicID, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	cl, err := r.cfg.client()
	if err != nil {
		return there, "", err
	}
	defer cl.Close()
	l := newListing(r.cfg, cl, *r.topics, nil)
	all, err := l.extents(ctx, []placed{p})
	return all[p.partition], l.ids[p.Topic], err
}

// Close implements connector.UnboundedReader.
func (r *reader[T]) Close() error {
	r.cl.Close()
	for p := range r.index {
		r.lags.forget(p)
	}
	return nil
}
