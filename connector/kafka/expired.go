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
	// records. If the topic was made anew, or ends before the position, it goes on at the
	// topic's beginning.
	SkipExpired
)

var onExpired = []string{"fail", "earliest"}

// String names the choice as a job file does.
func (o OnExpired) String() string { return enum.Name("on_expired", o, onExpired) }

// extent is the part of a partition that exists: the offsets from first up to, but not including,
// end.
type extent struct{ first, end int64 }

func (e extent) holds(at int64) bool { return e.first <= at && at <= e.end }

// lostError says that records are gone that had not been read. A restart does not bring them back.
type lostError struct {
	partition
	next    int64   // the offset to be read next
	extent          // what exists now; end is below 0 if that is not known
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
		what = fmt.Sprintf("it ends at offset %d and was read up to %d; %s; this is not the partition that was read, or brokers have lost records (unclean leader election); restore the old partition",
			e.end, e.next, now)
	}
	return fmt.Sprintf("kafka: %s: %s; or accept the loss: go on at the first existing record (on_expired: earliest), or start afresh", e.partition, what)
}

// Verdict makes a lostError an async.Failure.
func (e *lostError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// skipped counts the records that were skipped because they were gone.
type skipped struct{ n atomic.Int64 }

// skip notes that reading goes on at another offset.
func (s *skipped) skip(log *slog.Logger, e *lostError, to int64) {
	n := max(to-e.next, 0) // the number is not known for a topic that was made anew
	s.n.Add(n)
	log.Warn("kafka: records were gone before they were read; reading goes on at another offset", "topic", e.Topic, "partition", e.ID,
		"from", e.next, "to", to, "first", e.first, "end", e.end, "skipped", n, "topic_made_anew", e.was != e.is)
}

// began logs that a partition that was to be read from its first record has another first record.
func (s *skipped) began(log *slog.Logger, p placed, to int64) {
	if s == nil {
		return
	}
	log.Warn("kafka: the first records were gone before anything was read; reading begins at the first existing record",
		"topic", p.Topic, "partition", p.ID, "from", p.next, "to", to)
}

// placed is a position in a partition, with the id of the topic.
type placed struct {
	partition
	id   topicID
	next int64
	// first: the position is that of the first record, and nothing was read yet.
	first bool
}

// begins reports whether the lost records do not matter: reading was to begin at the first record,
// and another record is the first one now.
func (p placed) begins(lost *lostError) bool {
	return p.first && lost.was == lost.is && p.next < lost.first
}

// lost returns what is lost at a position, or nil if nothing is. there is what exists of the
// partition, and is the topic's present id.
func (p placed) lost(there extent, is topicID) *lostError {
	lost := &lostError{partition: p.partition, next: p.next, extent: there, was: p.id, is: is}
	if lost.was == "" || lost.is == "" { // the checkpoint or the brokers do not know the id
		lost.was, lost.is = "", ""
	}
	if lost.was == lost.is && there.holds(p.next) {
		return nil
	}
	return lost
}

// locate checks whether the records at positions exist. If one does not, locate moves the position
// to the first record, or fails. count may be nil if how is not SkipExpired.
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

// extents asks which part of each partition exists, and which ids their topics have.
func (l *listing) extents(ctx context.Context, all []placed) (map[partition]extent, error) {
	var of []partition
	for _, p := range all {
		of = append(of, p.partition)
	}
	if err := l.identify(ctx, of); err != nil {
		return nil, err
	}
	// The end is asked for first. Records that are deleted between the two questions could
	// otherwise put the beginning behind the end.
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
