package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tensorferry/tensorferry/connector"
)

// firstAssignment is how long a run waits for partitions before it begins without any.
const firstAssignment = 5 * time.Second

// cut implements Splits of the source. Assign says from where the partitions are read.
func (g *Group) cut(ctx context.Context) ([]connector.Split, error) {
	if err := g.Reach(ctx); err != nil {
		return nil, err
	}
	if err := g.join(); err != nil {
		return nil, err
	}
	first, cancel := context.WithTimeout(ctx, firstAssignment)
	defer cancel()
	if err := g.await(first, func() bool { return g.version > 0 || g.refused != nil }); err != nil {
		g.cfg.Logger.Info("kafka: no partition was assigned yet", "group", g.cfg.Group)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return nil, g.refused
}

// Reach asks the brokers whether the topics are there, and whether this process may use its
// transactions. A run begins with it. It may also be called earlier.
func (g *Group) Reach(ctx context.Context) error {
	if g.err != nil || g.ready {
		return g.err
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
	defer cancel()
	cl, err := g.cfg.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	if _, err := newListing(&g.cfg.Config, cl, g.cfg.Topics, g.match).partitions(ctx); err != nil {
		return err
	}
	// A transaction that a predecessor of the same name has left open ends here, before its
	// timeout.
	if err := g.prod.reset(ctx); err != nil {
		return err
	}
	g.ready = true
	return nil
}

// waitChanged implements Changed of the source.
func (g *Group) waitChanged(ctx context.Context) error {
	var lost error
	err := g.await(ctx, func() bool {
		lost = g.over()
		return lost != nil || g.version != g.seen || len(g.leaving) > 0
	})
	if ctx.Err() != nil {
		g.unread()
	}
	return errors.Join(err, lost)
}

// unread says that an attempt is over. If no reader was opened, nothing holds the partitions any
// more.
func (g *Group) unread() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readers == 0 {
		g.hold = false
		g.signal()
	}
}

// assign implements Assign of the source. The offsets that the group has committed count, whatever
// a checkpoint says.
func (g *Group) assign(ctx context.Context) ([]connector.Split, []int64, error) {
	if err := g.join(); err != nil {
		return nil, nil, err
	}
	// A member that was killed may have left offsets in a transaction, which ends by its
	// timeout.
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeout+g.cfg.TransactionTimeout+transactionEnds)
	defer cancel()
	g.letGo()
	var mine []partition
	var refused error
	// Partitions that are to be released go first, since nothing is in progress. After that,
	// Changed notices further ones.
	err := g.await(ctx, func() bool {
		if len(g.leaving) > 0 {
			return false
		}
		g.lost, g.seen, g.hold = nil, g.version, g.refused == nil
		mine = slices.SortedFunc(maps.Keys(g.owned), comparePartitions)
		g.splits, refused = mine, g.refused
		return true
	})
	if err != nil {
		return nil, nil, fmt.Errorf("kafka: waiting until the group's old partitions are released: %w", err)
	}
	if refused != nil {
		return nil, nil, refused
	}
	at, err := g.offsets(ctx, mine)
	if err != nil {
		g.letGo()
		return nil, nil, err
	}
	var splits []connector.Split
	var next []int64
	for _, p := range mine {
		first, ok := g.firsts[p]
		now := placed{p, g.ids[p.Topic], at[p], ok && first == at[p]}
		splits, next = append(splits, now.split(at[p])), append(next, at[p])
	}
	g.cfg.Logger.Info("kafka: partitions assigned", "group", g.cfg.Group, "partitions", fmt.Sprint(mine))
	return splits, next, nil
}

// letGo says that nothing reads any more.
func (g *Group) letGo() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold = false
	g.signal()
}

// fetchCommitted asks for the offsets that the group has committed. It waits until no transaction
// is open on those of the given partitions.
func (g *Group) fetchCommitted(ctx context.Context, of []partition) (kadm.OffsetResponses, error) {
	for said := false; ; said = true {
		got, err := g.list.admin.FetchOffsets(kadm.RequireStable(ctx), g.cfg.Group)
		for _, p := range of {
			if o, ok := got.Lookup(p.Topic, p.ID); ok && err == nil {
				err = o.Err
			}
		}
		if errors.Is(err, kerr.UnstableOffsetCommit) {
			if !said {
				g.cfg.Logger.Info("kafka: waiting for the end of a transaction that another member has left open", "group", g.cfg.Group)
			}
			if wait(ctx, 100*time.Millisecond) {
				continue
			}
		}
		if err != nil {
			return nil, g.cfg.asked(fmt.Sprintf("asking for the offsets of the group %q", g.cfg.Group), err)
		}
		return got, nil
	}
}

// offsets returns where partitions are to be read from.
func (g *Group) offsets(ctx context.Context, of []partition) (map[partition]int64, error) {
	was := g.committed
	g.committed, g.firsts = map[partition]int64{}, map[partition]int64{}
	if len(of) == 0 {
		return nil, nil
	}
	got, err := g.fetchCommitted(ctx, of)
	if err != nil {
		return nil, err
	}
	if err := g.list.identify(ctx, of); err != nil {
		return nil, err
	}
	var missing []partition
	var out map[partition]int64
	for _, p := range of {
		o, ok := got.Lookup(p.Topic, p.ID)
		if ok && o.At >= 0 {
			continue
		}
		missing = append(missing, p)
		if at, read := was[p]; read {
			if err := g.forgotten(p, at); err != nil {
				return nil, err
			}
		}
	}
	maps.Copy(g.ids, g.list.ids)
	if g.cfg.Start.kind == earliest {
		// Every partition without an offset begins at its first record. The checkpoint of the
		// beginning commits that.
		if out, err = g.list.offsets(ctx, Earliest, missing); err != nil {
			return nil, err
		}
		maps.Copy(g.firsts, out)
	} else if present, _ := g.began(got); len(missing) > 0 || !present {
		if got, err = g.begin(ctx, of); err != nil {
			return nil, err
		}
	}
	g.begun = true
	var all []placed
	for _, p := range of {
		o, ok := got.Lookup(p.Topic, p.ID)
		if !ok || o.At < 0 {
			if _, begins := out[p]; !begins {
				return nil, fmt.Errorf("kafka: %s: the group %q has no offset for it; was the topic deleted?", p, g.cfg.Group)
			}
			continue
		}
		_, id, _, first := parseNote(o.Metadata)
		all, g.committed[p] = append(all, placed{p, id, o.At, first}), o.At
	}
	if err := g.list.locate(ctx, all, g.cfg.OnExpired, &g.skipped); err != nil {
		return nil, err
	}
	if out == nil {
		out = map[partition]int64{}
	}
	for _, p := range all {
		out[p.partition] = p.next
		if p.first {
			g.firsts[p.partition] = p.next
		}
	}
	return out, nil
}

// forgotten is called if the group no longer has an offset for a partition of which this process
// had read up to the offset at. Brokers forget offsets when a topic is deleted. forgotten returns
// an error unless reading may go on.
func (g *Group) forgotten(p partition, at int64) error {
	lost := &lostError{partition: p, next: at, extent: extent{0, -1}, was: g.ids[p.Topic], is: g.list.ids[p.Topic]}
	switch {
	case lost.was == "" || lost.is == "" || lost.was == lost.is:
		return permanentError(fmt.Sprintf("kafka: %s: the consumer group %q was at offset %d and has no offset any more: the offset was deleted, or it expired because the group had no members "+
			"for too long (offsets.retention.minutes); set it with Kafka's own tools while no member runs, or start again and read from the first record", p, g.cfg.Group, at))
	case g.cfg.OnExpired != SkipExpired:
		return lost
	}
	g.skipped.skip(g.cfg.Logger, lost, 0)
	return nil
}

// GroupSource returns the source that reads a group's partitions. decode must not be nil.
func GroupSource[T any](g *Group, decode Decode[T]) connector.Source[T] {
	return &groupSource[T]{g, decode}
}

type groupSource[T any] struct {
	g      *Group
	decode Decode[T]
}

func (s *groupSource[T]) Splits(ctx context.Context) ([]connector.Split, error) {
	if s.decode == nil {
		return nil, errNoDecode
	}
	return s.g.cut(ctx)
}

// Partition returns the partition of a split, by the split's number in the present attempt.
func (s *groupSource[T]) Partition(split int) (topic string, id int32, ok bool) {
	return s.g.Partition(split)
}

func (s *groupSource[T]) Verify(context.Context, []connector.Split, []int64) error { return nil }

// Lag returns how many records of this member's partitions have not been read yet. known is false
// until the brokers have said so.
func (s *groupSource[T]) Lag() (records int64, known bool) { return s.g.lags.total() }

// Skipped returns how many records of this member's partitions were skipped because they were gone
// before they could be read (SkipExpired).
func (s *groupSource[T]) Skipped() int64 { return s.g.skipped.n.Load() }

func (s *groupSource[T]) Changed(ctx context.Context) error { return s.g.waitChanged(ctx) }

func (s *groupSource[T]) Assign(ctx context.Context, _ []connector.Split, _ []int64) ([]connector.Split, []int64, error) {
	return s.g.assign(ctx)
}

func (s *groupSource[T]) Open(context.Context, connector.Split, int64) (connector.Reader[T], error) {
	return nil, errTogether
}

func (s *groupSource[T]) OpenAll(_ context.Context, splits []connector.AssignedSplit) (connector.UnboundedReader[T], error) {
	g := s.g
	g.mu.Lock()
	hold := g.hold
	g.readers++
	g.mu.Unlock()
	r, err := openReader(&g.cfg.Config, &g.cfg.Topics, s.decode, true, &g.lags, &g.skipped, splits)
	if !hold && err == nil { // another subtask has failed before this one began
		err = errors.Join(&LostError{g.cfg.Group}, r.Close())
	}
	if err != nil {
		g.closed()
		return nil, err
	}
	return &groupReader[T]{reader: r, g: g}, nil
}

// closed says that a reader has ended. When all have, partitions may be released.
func (g *Group) closed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readers--; g.readers == 0 {
		g.hold = false
		g.signal()
	}
}

type groupReader[T any] struct {
	*reader[T]
	g    *Group
	once sync.Once
}

func (r *groupReader[T]) Close() error {
	r.once.Do(func() {
		r.reader.Close()
		r.g.closed()
	})
	return nil
}
