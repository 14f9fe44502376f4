package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/enum"
)

// OnExpired says what happens if the next record to read is gone. A record is gone if it was
// deleted before it was read (retention), if brokers have lost it, or if its topic was deleted and
// made anew.
type OnExpired uint8

const (
	// FailExpired ends the job, since records are lost. It is the default.
	FailExpired OnExpired = iota
	// SkipExpired goes on at the first record that is there. It logs and counts the skipped
	// records. It goes on at the beginning of a topic that was made anew, or that ends before
	// the position.
	SkipExpired
)

var onExpired = []string{"fail", "earliest"}

// String names the choice as a job file does.
func (o OnExpired) String() string { return enum.Name("on_expired", o, onExpired) }

// extent is what there is of a partition: offsets from first to before end.
type extent struct{ first, end int64 }

func (e extent) holds(at int64) bool { return e.first <= at && at <= e.end }

// lostError says that records are gone which had not been read. No restart brings them back.
type lostError struct {
	partition
	next    int64   // to be read
	extent          // of what there is; end is below 0 where nobody knows
	was, is topicID // differ if the topic was made anew
}

func (e *lostError) Error() string {
	now := "it is not known which records are there now"
	if e.end >= 0 {
		now = fmt.Sprintf("the first record is now at offset %d, and the partition ends at %d", e.first, e.end)
	}
	what := fmt.Sprintf("the records from offset %d on were not read yet and are gone; %s; keep them for longer (retention)", e.next, now)
	switch {
	case e.was != e.is:
		what = fmt.Sprintf("the topic was deleted and made anew (its id was %s and is %s): the old one's records from offset %d on were not read yet and are gone; %s",
			e.was, e.is, e.next, now)
	case e.end >= 0 && e.next > e.end:
		what = fmt.Sprintf("it ends at offset %d and was read up to %d; %s; it is not the partition that was read, or brokers have lost records (unclean leader election); put the old one back",
			e.end, e.next, now)
	}
	return fmt.Sprintf("kafka: %s: %s; or accept the loss: go on at the first record that is there (on_expired: earliest), or start afresh", e.partition, what)
}

// Verdict makes a lostError an async.Failure.
func (e *lostError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// skipped counts the records that were skipped because they were gone.
type skipped struct{ n atomic.Int64 }

// skip notes that reading goes on at another offset.
func (s *skipped) skip(log *slog.Logger, e *lostError, to int64) {
	n := max(to-e.next, 0) // of a topic that was made anew nobody knows
	s.n.Add(n)
	log.Warn("kafka: records were gone before they were read; reading goes on at others", "topic", e.Topic, "partition", e.ID,
		"from", e.next, "to", to, "first", e.first, "end", e.end, "skipped", n, "topic_made_anew", e.was != e.is)
}

// began notes that a partition whose first record was to be read has another first record.
func (s *skipped) began(log *slog.Logger, p placed, to int64) {
	if s == nil {
		return
	}
	log.Warn("kafka: the first records were gone before anything was read; reading begins at the first there is",
		"topic", p.Topic, "partition", p.ID, "from", p.next, "to", to)
}

// placed is a position in a partition, of the topic with an id.
type placed struct {
	partition
	id   topicID
	next int64
	// first: it is that of the first record there was, and nothing was read yet.
	first bool
}

// begins says that what is lost stands before the first record, at which reading was to begin. No
// record of it was promised to anyone: the first one is another now.
func (p placed) begins(lost *lostError) bool {
	return p.first && lost.was == lost.is && p.next < lost.first
}

// lost returns what is lost at a position, given what there is and the topic's present id; nil:
// nothing.
func (p placed) lost(there extent, is topicID) *lostError {
	lost := &lostError{partition: p.partition, next: p.next, extent: there, was: p.id, is: is}
	if lost.was == "" || lost.is == "" { // brokers, or checkpoints, that know none
		lost.was, lost.is = "", ""
	}
	if lost.was == lost.is && there.holds(p.next) {
		return nil
	}
	return lost
}

// locate looks whether positions are there. Where they are not it puts those that there are in
// their place, or fails. count may be nil if none are skipped.
func (l *listing) locate(ctx context.Context, all []placed, how OnExpired, count *skipped) error {
	there, err := l.extents(ctx, all)
	if err != nil {
		return err
	}
	for i := range all {
		p := &all[i]
		switch lost := p.lost(there[p.partition], l.ids[p.Topic]); {
		case lost == nil:
		case p.begins(lost):
			count.began(l.cfg.Logger, *p, lost.first)
			p.next = lost.first
		case how != SkipExpired:
			return lost
		default:
			count.skip(l.cfg.Logger, lost, lost.first)
			p.next, p.first = lost.first, false
		}
		p.id = l.ids[p.Topic]
	}
	return nil
}

// extents asks what there is of partitions, and which ids their topics have.
func (l *listing) extents(ctx context.Context, all []placed) (map[partition]extent, error) {
	var of []partition
	for _, p := range all {
		of = append(of, p.partition)
	}
	if err := l.identify(ctx, of); err != nil {
		return nil, err
	}
	// The end is asked for first: what is deleted meanwhile cannot make it smaller than the
	// beginning.
	end, err := l.offsets(ctx, Latest, of)
	if err != nil {
		return nil, err
	}
	first, err := l.offsets(ctx, Earliest, of)
	there := map[partition]extent{}
	for _, p := range of {
		there[p] = extent{first[p], max(first[p], end[p])}
	}
	return there, err
}
