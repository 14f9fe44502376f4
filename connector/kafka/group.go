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

// GroupConfig describes a member of a consumer group that writes in transactions. Brokers, the
// topics and Group must be set.
type GroupConfig struct {
	Config
	Topics
	// Group names the consumer group.
	Group string
	// Discover is how often the member asks the brokers for new partitions, and for new topics
	// that the pattern matches. Default 1 min.
	Discover time.Duration
	// Instance names this member. The name must differ from those of all other members and be
	// the same after a restart. If the member returns within the session timeout, the broker
	// returns its partitions without a rebalance, and ends the transaction of its predecessor
	// at once.
	//
	// Default: a member has a random name. If it is killed, its transaction ends by its
	// timeout. Until then, readers of committed results see none that were written after that
	// transaction began.
	Instance string
	// SessionTimeout is how long a member may send no heartbeat. After that the brokers take it
	// for dead. Default 45 s.
	SessionTimeout time.Duration
	// RebalanceTimeout is how long a member may take to drain partitions before the brokers
	// take them away. Default 1 min.
	RebalanceTimeout time.Duration
	// TransactionTimeout is the most time from one checkpoint to the end of the next. Default 1
	// min. A broker allows at most 15 min by default.
	TransactionTimeout time.Duration
	// Partitioner and Compression are those of all sinks of the group, as in SinkConfig.
	Partitioner kgo.Partitioner
	Compression []kgo.CompressionCodec
}

// Group is a member of a consumer group. It reads partitions, and for each checkpoint it writes
// results and offsets in one transaction: exactly once. A job has it as its checkpoint store, and
// has its source and sinks from GroupSource and GroupSink. A Group serves one run at a time. Close
// leaves the group.
//
// Operators must drain at a checkpoint: another process could not find what was in flight.
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
	leaving map[partition]bool // of owned; they are released once nothing of them is in progress
	version int                // counts what was assigned and revoked
	seen    int                // version at the last Assign
	lost    error              // why other members own the partitions now; nil: they do not
	refused error              // why the brokers refuse this member, for good; nil: they do not
	splits  []partition        // of the last Assign
	hold    bool               // an attempt reads, or is about to
	readers int
	commits bool // a commit is under way

	// Of the run's goroutines, one at a time:
	begun     bool                // the group has begun with these topics
	ids       map[string]topicID  // of the topics that it reads
	ready     bool                // this process has taken up the transactional id
	firsts    map[partition]int64 // positions of first records from which nothing was read yet
	committed map[partition]int64 // what the group has committed of splits
	newest    *checkpoint.Snapshot
	unsure    *checkpoint.Snapshot // its transaction may have been committed or not
}

// NewGroup returns a group. It does not connect to the brokers yet. A mistake in the configuration
// is reported by Validate, and when the job starts.
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

// signal wakes the goroutines that wait for a change. Under g.mu.
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

// Partition returns the partition of a split, by the split's number in the present attempt.
func (g *Group) Partition(split int) (topic string, id int32, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if split < 0 || split >= len(g.splits) {
		return "", 0, false
	}
	return g.splits[split].Topic, g.splits[split].ID, true
}

// Close leaves the group. Results that are not committed are not published.
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
