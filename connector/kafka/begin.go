package kafka

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

// What a group has begun with is kept in the metadata of its offsets, since there is no other place
// for it: a mark that says which checkpoint committed the offset, the id of the topic, and the
// topics that the group reads.
const (
	noteTopic = " topic="
	noteOf    = " of="
	// noteFirst marks the offset of a first record, if nothing was read from there yet.
	noteFirst = " position=first"
	// startMark marks the offsets at which reading begins.
	startMark = "tensorferry start"
	// longestSelection bounds the selection in a note, since there is a note for each partition.
	longestSelection = 100
)

// note returns the metadata of an offset.
func (g *Group) note(mark string, p partition, at int64) string {
	note := mark + noteTopic + string(g.ids[p.Topic]) + noteOf + g.cfg.selection()
	if first, ok := g.firsts[p]; ok && first == at {
		note += noteFirst
	}
	return note
}

// parseNote reads what note wrote. Offsets that other programs or earlier versions have committed
// have no such metadata.
func parseNote(note string) (mark string, id topicID, selection string, first bool) {
	note, first = strings.CutSuffix(note, noteFirst)
	mark, rest, _ := strings.Cut(note, noteTopic)
	of, selection, _ := strings.Cut(rest, noteOf)
	return mark, topicID(of), selection, first
}

// selection returns the text that stands for the topics in a note.
func (t *Topics) selection() string {
	s := "pattern:" + t.Pattern
	if t.Pattern == "" {
		s = "topics:" + strings.Join(slices.Sorted(slices.Values(t.Names)), ",")
	}
	if len(s) > longestSelection {
		return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(s)))
	}
	return s
}

// selects reports whether a selection is known to have a topic.
func selects(selection, topic string) bool {
	switch kind, of, _ := strings.Cut(selection, ":"); kind {
	case "topics":
		return slices.Contains(strings.Split(of, ","), topic)
	case "pattern":
		match, err := Topics{Pattern: of}.resolve()
		return err == nil && match(topic)
	}
	return false
}

// began finds out from a group's offsets whether the group has begun with the present topics. since
// reports, for a topic, whether a partition without an offset has appeared after the group began.
func (g *Group) began(got kadm.OffsetResponses) (present bool, since func(topic string) bool) {
	has := map[string]bool{} // topics that have offsets
	var selections []string
	got.Each(func(o kadm.OffsetResponse) {
		if o.At < 0 {
			return
		}
		has[o.Topic] = true
		if _, _, s, _ := parseNote(o.Metadata); s != "" && !slices.Contains(selections, s) {
			selections = append(selections, s)
		}
	})
	present = g.begun || slices.Contains(selections, g.cfg.selection())
	return present, func(topic string) bool {
		return present || has[topic] || slices.ContainsFunc(selections, func(s string) bool { return selects(s, topic) })
	}
}

// begin commits an offset for each partition of which the group has none, and returns the group's
// offsets. The first member with these topics does this for all existing partitions. Every process
// then knows that a partition that appears later is new. The commit uses a transactional id that
// the group's members share. A member that takes the id up ends the transaction of the member
// before it. So a member never commits without having seen the offsets that another member has
// committed.
func (g *Group) begin(ctx context.Context, mine []partition) (kadm.OffsetResponses, error) {
	for {
		got, err := g.tryToBegin(ctx, mine)
		fenced := slices.ContainsFunc([]error{kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.InvalidTxnState}, func(e error) bool { return errors.Is(err, e) })
		if !fenced || !wait(ctx, 20*time.Millisecond+rand.N(200*time.Millisecond)) {
			return got, err
		}
	}
}

// beginTimeout is how long the brokers wait before they end the transaction of a member that was
// killed in begin.
const beginTimeout = 10 * time.Second

func (g *Group) tryToBegin(ctx context.Context, mine []partition) (kadm.OffsetResponses, error) {
	txn := "tensorferry-" + g.cfg.Group + "/begin"
	cl, err := g.cfg.client(kgo.TransactionalID(txn), kgo.TransactionTimeout(beginTimeout), kgo.MaxVersions(kversion.V3_8_0()))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	id, epoch, err := cl.ProducerID(ctx)
	if err != nil {
		return nil, g.cfg.asked("taking up the transactional id "+txn, err)
	}
	all, err := g.list.partitions(ctx)
	if err != nil {
		return nil, err
	}
	maps.Copy(g.ids, g.list.ids)
	got, err := g.fetchCommitted(ctx, all)
	if err != nil {
		return nil, err
	}
	has := func(p partition) bool {
		o, ok := got.Lookup(p.Topic, p.ID)
		return ok && o.At >= 0
	}
	present, since := g.began(got)
	if present { // other members begin the partitions that they own
		all = slices.DeleteFunc(all, func(p partition) bool { return !slices.Contains(mine, p) })
	}
	var there, appeared []partition
	for _, p := range all {
		switch {
		case has(p):
		case since(p.Topic):
			appeared = append(appeared, p)
		default:
			there = append(there, p)
		}
	}
	first, err := g.list.offsets(ctx, g.cfg.Start, there)
	if err != nil {
		return nil, err
	}
	more, err := g.list.offsets(ctx, Earliest, appeared)
	if err != nil {
		return nil, err
	}
	offsets := map[partition]int64{}
	maps.Copy(offsets, first)
	maps.Copy(offsets, more)
	maps.Copy(g.firsts, more)
	var held []partition
	if len(offsets) == 0 && !present {
		// All partitions have offsets, from a run with other topics or of an earlier version. One
		// offset is committed again, so that its note has the present topics.
		if i := slices.IndexFunc(mine, has); i >= 0 { // topics may be deleted meanwhile
			o, _ := got.Lookup(mine[i].Topic, mine[i].ID)
			offsets[mine[i]], held = o.At, mine[i:i+1]
		}
	}
	if len(offsets) == 0 {
		return got, nil // another member was faster
	}
	for _, step := range []func() error{
		func() error { return addOffsets(ctx, cl, txn, g.cfg.Group, id, epoch) },
		func() error {
			return g.commitInTransaction(ctx, cl, txn, id, epoch, offsets, startMark, slices.Values(held))
		},
		func() error { return endTransaction(ctx, cl, txn, id, epoch) },
	} {
		if err := g.untilSettled(ctx, step); err != nil {
			return nil, fmt.Errorf("kafka: committing the first offsets of partitions: %w", refused(err))
		}
	}
	g.cfg.Logger.Info("kafka: the group had no offsets for some partitions; their first offsets were committed", "group", g.cfg.Group,
		"there_when_it_began", len(there), "appeared_since", len(appeared), "start", g.cfg.Start.String())
	return g.fetchCommitted(ctx, mine)
}
