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
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// Defaults of GroupConfig.
const (
	DefaultSessionTimeout     = 45 * time.Second
	DefaultRebalanceTimeout   = time.Minute
	DefaultTransactionTimeout = time.Minute
)

// firstAssignment is how long a run waits for partitions before it begins without any.
const firstAssignment = 5 * time.Second

// GroupConfig describes a member of a consumer group that writes in transactions. Brokers, topics and Group must be set.
type GroupConfig struct {
	Config
	Topics
	// Group names the consumer group.
	Group string
	// Instance names this member, differently from all others, and the same after a restart. The broker then gives it back its partitions
	// without a rebalance if it returns within the session timeout, and ends the transaction of its predecessor at once. Default: members
	// have random names; the transaction of one that was killed ends by its timeout, and until then
	// nobody who reads committed results sees any that were written after it began.
	Instance string
	// SessionTimeout is after how long without a sign a member is taken for dead. Default 45 s.
	SessionTimeout time.Duration
	// RebalanceTimeout is how long partitions may take to drain before they are taken away. Default 1 min.
	RebalanceTimeout time.Duration
	// TransactionTimeout bounds the time from one checkpoint to the end of the next. Default 1 min; a broker allows at
	// most 15 min by default.
	TransactionTimeout time.Duration
	// Partitioner and Compression are those of all sinks of the group, as in SinkConfig.
	Partitioner kgo.Partitioner
	Compression []kgo.CompressionCodec
}

// Group is a member of a consumer group that reads partitions and writes results and offsets in one transaction for each
// checkpoint: exactly once. It is a job's checkpoint store, and makes its source and sinks with
// GroupSource and GroupSink. It serves one run at a time; Close leaves the group.
//
// Operators must drain: what is in flight at a checkpoint could not be found again by another process.
type Group struct {
	cfg   GroupConfig
	match func(string) bool
	err   error
	prod  producer

	lags    lags
	opening sync.Mutex
	member  *kgo.Client
	list    *listing
	polling sync.WaitGroup
	stop    context.CancelFunc

	mu      sync.Mutex
	changed chan struct{} // closed when anything below has changed
	owned   map[partition]bool
	leaving map[partition]bool // of owned, to be given up once nothing of them is in progress
	version int                // counts what was assigned and revoked
	seen    int                // version at the last Assign
	lost    error
	splits  []partition // of the last Assign
	hold    bool        // an attempt reads, or is about to
	readers int
	commits bool // a commit is under way

	// Of the run's goroutines, one at a time:
	committed map[partition]int64
	newest    *checkpoint.Snapshot
	unsure    *checkpoint.Snapshot // whose transaction may have been committed, or not
}

// NewGroup returns a group of which nothing is opened yet. What is wrong with the configuration is reported by Validate, and
// when the job starts.
func NewGroup(c GroupConfig) *Group {
	g := &Group{cfg: c, changed: make(chan struct{}), owned: map[partition]bool{}, leaving: map[partition]bool{}}
	var errs [3]error
	g.cfg.Config, errs[0] = c.Config.resolve()
	g.match, errs[1] = c.Topics.resolve()
	if c.Group == "" {
		errs[2] = errors.New("kafka: the consumer group has no name")
	}
	all := errs[:]
	for _, d := range []struct {
		name     string
		v        *time.Duration
		fallback time.Duration
	}{
		{"session", &g.cfg.SessionTimeout, DefaultSessionTimeout},
		{"rebalance", &g.cfg.RebalanceTimeout, DefaultRebalanceTimeout},
		{"transaction", &g.cfg.TransactionTimeout, DefaultTransactionTimeout},
	} {
		if *d.v < 0 {
			all = append(all, fmt.Errorf("kafka: the %s timeout is %v; want more than 0, or 0 for %v", d.name, *d.v, d.fallback))
		} else if *d.v == 0 {
			*d.v = d.fallback
		}
	}
	g.err = errors.Join(all...)
	g.prod.init(&g.cfg)
	return g
}

// Validate says what is wrong with the configuration.
func (g *Group) Validate() error { return g.err }

// signal wakes those who wait for a change. Under g.mu.
func (g *Group) signal() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// await waits until ready, which is called under g.mu, or until ctx ends.
func (g *Group) await(ctx context.Context, ready func() bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !ready() {
		c := g.changed
		g.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
		}
		g.mu.Lock()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// join makes this process a member.
func (g *Group) join() error {
	g.opening.Lock()
	defer g.opening.Unlock()
	if g.err != nil || g.member != nil {
		return g.err
	}
	opts := []kgo.Opt{
		kgo.ConsumerGroup(g.cfg.Group), kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.DisableAutoCommit(),
		kgo.SessionTimeout(g.cfg.SessionTimeout), kgo.RebalanceTimeout(g.cfg.RebalanceTimeout),
		kgo.OnPartitionsAssigned(g.onAssigned), kgo.OnPartitionsRevoked(g.onRevoked), kgo.OnPartitionsLost(g.onLost),
	}
	if h := g.cfg.SessionTimeout / 10; h < 3*time.Second {
		opts = append(opts, kgo.HeartbeatInterval(h))
	}
	if g.cfg.Pattern != "" {
		opts = append(opts, kgo.ConsumeRegex(), kgo.ConsumeTopics("^(?:"+g.cfg.Pattern+")$"))
	} else {
		opts = append(opts, kgo.ConsumeTopics(g.cfg.Names...))
	}
	if g.cfg.Instance != "" {
		opts = append(opts, kgo.InstanceID(g.cfg.Instance))
	}
	cl, err := g.cfg.client(opts...)
	if err != nil {
		return err
	}
	g.member, g.list = cl, newListing(cl, g.cfg.Topics, g.match)
	var ctx context.Context
	ctx, g.stop = context.WithCancel(context.Background())
	// The member holds partitions and reads none. What comes here are words about the membership.
	g.polling.Go(func() {
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachError(func(topic string, id int32, err error) {
				if ctx.Err() == nil {
					g.cfg.Logger.Warn("kafka: consumer group", "group", g.cfg.Group, "topic", topic, "partition", id, "error", err)
				}
			})
		}
	})
	return nil
}

func (g *Group) onAssigned(_ context.Context, cl *kgo.Client, m map[string][]int32) {
	cl.PauseFetchPartitions(m) // readers of their own read
	g.mu.Lock()
	defer g.mu.Unlock()
	for topic, ids := range m {
		for _, id := range ids {
			g.owned[partition{topic, id}] = true
		}
	}
	g.version++
	g.signal()
}

// onRevoked gives partitions up when nothing of them is in progress: the job takes a checkpoint first.
func (g *Group) onRevoked(ctx context.Context, _ *kgo.Client, m map[string][]int32) {
	g.mu.Lock()
	for topic, ids := range m {
		for _, id := range ids {
			if p := (partition{topic, id}); g.owned[p] {
				g.leaving[p] = true
			}
		}
	}
	if len(g.leaving) > 0 {
		g.version++
		g.signal()
	}
	g.mu.Unlock()
	// The context ends when the client is closed, and then nothing is in progress either.
	_ = g.await(ctx, func() bool { return len(g.leaving) == 0 || !g.hold && !g.commits })
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.leaving {
		delete(g.owned, p)
	}
	clear(g.leaving)
	g.signal()
}

// LostError says that the group has given partitions to others, because this member gave no sign for too long.
type LostError struct{ Group string }

func (e *LostError) Error() string {
	return fmt.Sprintf("kafka: the consumer group %q has given this member's partitions to others, since it gave no sign for too long; "+
		"what was in progress is theirs now", e.Group)
}

func (g *Group) onLost(_ context.Context, _ *kgo.Client, m map[string][]int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gone := false
	for topic, ids := range m {
		for _, id := range ids {
			p := partition{topic, id}
			gone = gone || g.owned[p]
			delete(g.owned, p)
			delete(g.leaving, p)
		}
	}
	if gone {
		g.lost = &LostError{g.cfg.Group}
		g.version++
		g.signal()
	}
}

// cut implements Splits of the source. Where the partitions are read from Assign says.
func (g *Group) cut(ctx context.Context) ([]stream.Split, error) {
	if err := g.join(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
	defer cancel()
	if _, err := g.list.partitions(ctx); err != nil {
		return nil, err
	}
	first, cancel := context.WithTimeout(ctx, firstAssignment)
	defer cancel()
	if err := g.await(first, func() bool { return g.version > 0 }); err != nil {
		g.cfg.Logger.Info("kafka: no partition was assigned yet", "group", g.cfg.Group)
	}
	return nil, nil
}

// waitChanged implements Changed of the source.
func (g *Group) waitChanged(ctx context.Context) error {
	var lost error
	err := g.await(ctx, func() bool {
		lost = g.lost
		return lost != nil || g.version != g.seen
	})
	return errors.Join(err, lost)
}

// assign implements Assign of the source. The offsets that the group has committed are the truth, whatever
// a checkpoint says.
func (g *Group) assign(ctx context.Context) ([]stream.Split, []int64, error) {
	if err := g.join(); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
	defer cancel()
	g.letGo()
	if g.cfg.Instance != "" && g.seen == 0 {
		// What a predecessor of this name has left open ends here, and not by its timeout.
		if err := g.prod.reset(ctx); err != nil {
			return nil, nil, err
		}
	}
	// What is to be given up goes first; nothing is in progress.
	if err := g.await(ctx, func() bool { return len(g.leaving) == 0 }); err != nil {
		return nil, nil, fmt.Errorf("kafka: partitions are being given up: %w", err)
	}
	g.mu.Lock()
	g.lost, g.seen, g.hold = nil, g.version, true
	g.splits = slices.SortedFunc(maps.Keys(g.owned), comparePartitions)
	mine := g.splits
	g.mu.Unlock()
	at, err := g.offsets(ctx, mine)
	if err != nil {
		g.letGo()
		return nil, nil, err
	}
	g.committed = at
	var splits []stream.Split
	var next []int64
	for _, p := range mine {
		splits, next = append(splits, p.split(at[p])), append(next, at[p])
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

// fetchCommitted asks for the offsets that the group has committed, once no transaction is open on them.
func (g *Group) fetchCommitted(ctx context.Context, of []partition) (kadm.OffsetResponses, error) {
	var topics []string
	for _, p := range of {
		if !slices.Contains(topics, p.Topic) {
			topics = append(topics, p.Topic)
		}
	}
	for {
		got, err := g.list.admin.FetchOffsetsForTopics(kadm.RequireStable(ctx), g.cfg.Group, topics...)
		if err == nil {
			err = got.Error()
		}
		if errors.Is(err, kerr.UnstableOffsetCommit) && wait(ctx, 100*time.Millisecond) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("kafka: asking for the offsets of the group %q: %w", g.cfg.Group, err)
		}
		return got, nil
	}
}

// offsets returns where partitions are to be read from.
func (g *Group) offsets(ctx context.Context, of []partition) (map[partition]int64, error) {
	out := map[partition]int64{}
	if len(of) == 0 {
		return out, nil
	}
	got, err := g.fetchCommitted(ctx, of)
	if err != nil {
		return nil, err
	}
	var fresh []partition
	for _, p := range of {
		if o, ok := got.Lookup(p.Topic, p.ID); ok && o.At >= 0 {
			out[p] = o.At
		} else {
			fresh = append(fresh, p)
		}
	}
	begin, err := g.list.offsets(ctx, g.cfg.Start, fresh)
	maps.Copy(out, begin)
	return out, err
}

// Partition returns the partition that a split of the present attempt stands for.
func (g *Group) Partition(split int) (topic string, id int32, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if split < 0 || split >= len(g.splits) {
		return "", 0, false
	}
	return g.splits[split].Topic, g.splits[split].ID, true
}

// Close leaves the group. What was not committed is not published.
func (g *Group) Close() error {
	g.opening.Lock()
	defer g.opening.Unlock()
	g.letGo()
	g.prod.close()
	if g.member != nil {
		g.stop()
		g.member.Close()
		g.polling.Wait()
		g.member = nil
	}
	return nil
}

// GroupSource returns the source of a group's partitions.
func GroupSource[T any](g *Group, decode Decode[T]) stream.Source[T] {
	return &groupSource[T]{g, decode}
}

type groupSource[T any] struct {
	g      *Group
	decode Decode[T]
}

func (s *groupSource[T]) Splits(ctx context.Context) ([]stream.Split, error) {
	if s.decode == nil {
		return nil, errors.New("kafka: no function decodes records")
	}
	return s.g.cut(ctx)
}

func (s *groupSource[T]) Verify(context.Context, []stream.Split, []int64) error { return nil }

// Lag returns how many records of this member's partitions have not been read; false while nobody knows yet.
func (s *groupSource[T]) Lag() (records int64, known bool) { return s.g.lags.total() }

func (s *groupSource[T]) Changed(ctx context.Context) error { return s.g.waitChanged(ctx) }

func (s *groupSource[T]) Assign(ctx context.Context, _ []stream.Split, _ []int64) ([]stream.Split, []int64, error) {
	return s.g.assign(ctx)
}

func (s *groupSource[T]) Open(context.Context, stream.Split, int64) (stream.Reader[T], error) {
	return nil, errors.New("kafka: partitions are read together")
}

func (s *groupSource[T]) OpenAll(_ context.Context, splits []stream.LiveSplit) (stream.LiveReader[T], error) {
	g := s.g
	g.mu.Lock()
	hold := g.hold
	g.readers++
	g.mu.Unlock()
	r, err := openReader(&g.cfg.Config, s.decode, g.cfg.Traces, true, &g.lags, splits)
	if !hold && err == nil {
		err = errors.Join(&LostError{g.cfg.Group}, r.Close())
	}
	if err != nil {
		g.closed()
		return nil, err
	}
	return &groupReader[T]{reader: r, g: g}, nil
}

// closed says that a reader reads no more. When none does, partitions may be given up.
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
