package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// Defaults of GroupConfig.
const (
	DefaultSessionTimeout     = 45 * time.Second
	DefaultRebalanceTimeout   = time.Minute
	DefaultTransactionTimeout = time.Minute
)

// GroupConfig describes a member of a consumer group that writes in transactions. Brokers, topics and Group must be set.
type GroupConfig struct {
	Config
	Topics
	// Group names the consumer group.
	Group string
	// Discover is how often the brokers are asked for new partitions, and topics that match. Default 1 min.
	Discover time.Duration
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
	skipped skipped
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
	lost    error              // why the partitions are another's now; nil: they are not
	refused error              // why the brokers take this member no more; it stays
	splits  []partition        // of the last Assign
	hold    bool               // an attempt reads, or is about to
	readers int
	commits bool // a commit is under way

	// Of the run's goroutines, one at a time:
	begun     bool                // the group has, with these topics
	ids       map[string]topicID  // of the topics that it reads
	ready     bool                // the transactional id is this process's
	firsts    map[partition]int64 // positions of first records, from which on nothing was read yet
	committed map[partition]int64 // what the group has committed of splits
	newest    *checkpoint.Snapshot
	unsure    *checkpoint.Snapshot // whose transaction may have been committed, or not
}

// NewGroup returns a group of which nothing is opened yet. What is wrong with the configuration is reported by Validate, and
// when the job starts.
func NewGroup(c GroupConfig) *Group {
	g := &Group{cfg: c, changed: make(chan struct{}), owned: map[partition]bool{}, leaving: map[partition]bool{}, ids: map[string]topicID{}}
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
		{"discovery", &g.cfg.Discover, DefaultDiscover},
	} {
		if *d.v < 0 {
			all = append(all, fmt.Errorf("kafka: the %s time is %v; want more than 0, or 0 for %v", d.name, *d.v, d.fallback))
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
	g.ready = false
	if g.member != nil {
		g.stop()
		g.member.Close()
		g.polling.Wait()
		g.member = nil
	}
	return nil
}
