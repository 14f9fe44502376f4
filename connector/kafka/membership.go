package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/internal/brief"
)

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
	// The client notices new partitions when it asks for the topics.
	opts = append(opts, kgo.MetadataMaxAge(g.cfg.Discover), kgo.MetadataMinAge(min(g.cfg.Discover, 2500*time.Millisecond)))
	if g.cfg.Pattern != "" {
		opts = append(opts, kgo.ConsumeRegex(), kgo.ConsumeExcludeTopics("^__"), kgo.ConsumeTopics("^(?:"+g.cfg.Pattern+")$"))
	} else {
		opts = append(opts, kgo.ConsumeTopics(g.cfg.Names...))
	}
	m := &membership{g}
	opts = append(opts, kgo.WithHooks(m), kgo.RetryBackoffFn(m.backoff))
	if g.cfg.Instance != "" {
		opts = append(opts, kgo.InstanceID(g.cfg.Instance))
	}
	cl, err := g.cfg.client(opts...)
	if err != nil {
		return err
	}
	g.member, g.list = cl, newListing(&g.cfg.Config, cl, g.cfg.Topics, g.match)
	var ctx context.Context
	ctx, g.stop = context.WithCancel(context.Background())
	// The member holds partitions but does not read them. Only errors of the membership come here.
	g.polling.Go(func() {
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachError(func(topic string, id int32, err error) {
				if ctx.Err() != nil {
					return
				}
				g.cfg.Logger.Warn("kafka: consumer group", "group", g.cfg.Group, "topic", topic, "partition", id, "error", brief.Error(err))
			})
		}
	})
	return nil
}

// membership receives the client's reports about the membership of a Group.
type membership struct{ g *Group }

func (g *Group) onAssigned(_ context.Context, cl *kgo.Client, m map[string][]int32) {
	cl.PauseFetchPartitions(m) // other clients read the partitions
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

// onRevoked releases partitions when nothing of them is in progress. The job takes a checkpoint
// first.
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
	// The context ends when the client is closed. Nothing is in progress then either.
	_ = g.await(ctx, func() bool { return len(g.leaving) == 0 || !g.hold && !g.commits })
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.leaving {
		delete(g.owned, p)
	}
	clear(g.leaving)
	g.signal()
}

// LostError says that other members have this member's partitions now. The member sent no heartbeat
// for too long, or could not reach the group.
type LostError struct{ Group string }

func (e *LostError) Error() string {
	return fmt.Sprintf("kafka: this process lost its membership in the consumer group %q, for example because it sent no heartbeat for too long; "+
		"other members now have its partitions and repeat what was in progress", e.Group)
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
	if gone && g.lost == nil {
		g.lost = &LostError{g.cfg.Group}
	}
	if gone {
		g.version++
		g.signal()
	}
}

// OnGroupManageError implements kgo.HookGroupManageError. The client calls it before it waits and
// joins again.
func (m *membership) OnGroupManageError(err error) {
	g := m.g
	if err = refused(err); !isRefusal(err) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused = fmt.Errorf("kafka: the consumer group %q: %w", g.cfg.Group, err)
	g.version++
	g.signal()
}

// backoff returns how long the client waits before it tries anything again. A member that the
// brokers refuse must not try: if another process has taken its name, it would take the name back.
func (m *membership) backoff(tries int) time.Duration {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	if m.g.refused != nil {
		return time.Hour
	}
	return min(250*time.Millisecond<<min(tries, 10), 2500*time.Millisecond)
}

// over returns why this member can no longer read its partitions, or nil if it can. Under g.mu.
func (g *Group) over() error {
	if g.refused != nil {
		return g.refused
	}
	return g.lost
}

// holds returns an error unless this member owns all these partitions. Under g.mu.
func (g *Group) holds(all func(yield func(partition) bool)) error {
	if err := g.over(); err != nil {
		return err
	}
	for p := range all {
		if !g.owned[p] {
			return &LostError{g.cfg.Group}
		}
	}
	return nil
}
