package kafka

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// transactionEnds is how long brokers may take to end a transaction after its timeout. They look
// for such transactions every ten seconds.
const transactionEnds = 15 * time.Second

// markOf returns the mark of the offsets that a checkpoint has committed.
func markOf(s *checkpoint.Snapshot) string { return fmt.Sprintf("tensorferry %s %d", s.Run, s.ID) }

// Write implements stream.CheckpointStore. It commits the results and the offsets of a checkpoint.
func (g *Group) Write(ctx context.Context, s *checkpoint.Snapshot) (err error) {
	if s.HoldsRecords() {
		return permanentError("kafka: the checkpoint holds records in flight, which another process cannot take over; use the drain policy, without a drain limit")
	}
	positions, err := s.Positions("")
	if err != nil {
		return err
	}
	changed := map[partition]int64{}
	g.mu.Lock()
	for _, q := range positions {
		p, err := partitionOf(connector.Split{Data: q.Data})
		if err != nil {
			g.mu.Unlock()
			return err
		}
		if at, ok := g.committed[p]; !ok || at != q.Next {
			changed[p] = q.Next
		}
	}
	gone := g.holds(maps.Keys(changed))
	g.commits = true
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.commits = false
		g.signal()
	}()
	if gone != nil {
		return gone
	}
	if err := g.commit(ctx, changed, markOf(s)); err != nil {
		g.unsure = s
		return err
	}
	for p, at := range changed {
		g.committed[p] = at
	}
	g.newest = s
	return nil
}

// commit commits what was produced together with offsets.
func (g *Group) commit(ctx context.Context, offsets map[partition]int64, mark string) error {
	p := &g.prod
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.failed.get(); err != nil {
		return err
	}
	if !p.began && len(offsets) == 0 {
		return nil
	}
	cl, err := p.client()
	if err != nil {
		return err
	}
	if err := cl.Flush(ctx); err != nil {
		return fmt.Errorf("kafka: waiting for the brokers: %w", err)
	}
	if err := p.failed.get(); err != nil {
		return err
	}
	if len(offsets) > 0 {
		err := g.addAll(ctx, cl, offsets, mark)
		if err != nil {
			return fmt.Errorf("kafka: committing offsets: %w", p.explain(err))
		}
	}
	if p.began {
		if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
			// Newest finds out whether the transaction was committed. Until then nothing more may
			// be written in it.
			p.failed.set(fmt.Errorf("kafka: committing the transaction: %w", p.explain(err)))
			return p.failed.get()
		}
	}
	p.began, p.open = false, false
	return nil
}

// addAll adds offsets to the present transaction. If there are no results, the client has no
// transaction. addAll then makes and commits one that holds only offsets.
func (g *Group) addAll(ctx context.Context, cl *kgo.Client, offsets map[partition]int64, mark string) error {
	id, epoch, err := cl.ProducerID(ctx)
	if err != nil {
		return err
	}
	g.prod.open = true
	for _, step := range []func() error{
		func() error { return addOffsets(ctx, cl, g.prod.id, g.cfg.Group, id, epoch) },
		func() error {
			return g.commitInTransaction(ctx, cl, g.prod.id, id, epoch, offsets, mark, maps.Keys(offsets))
		},
		func() error {
			if g.prod.began {
				return nil
			}
			return endTransaction(ctx, cl, g.prod.id, id, epoch)
		},
	} {
		if err := g.untilSettled(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

func endTransaction(ctx context.Context, cl *kgo.Client, txn string, id int64, epoch int16) error {
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = txn, id, epoch, true
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// untilSettled calls try until the group and the brokers' transactions are no longer between two
// states. While this member owns its partitions, it may commit for them in any generation of the
// group.
func (g *Group) untilSettled(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RebalanceTimeout)
	defer cancel()
	for {
		err := try()
		switch {
		case errors.Is(err, kerr.RebalanceInProgress), errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.ConcurrentTransactions),
			errors.Is(err, kerr.CoordinatorLoadInProgress), errors.Is(err, kerr.CoordinatorNotAvailable), errors.Is(err, kerr.NotCoordinator):
			g.mu.Lock()
			lost := g.over()
			g.mu.Unlock()
			if lost != nil {
				return errors.Join(lost, err)
			}
			if wait(ctx, 20*time.Millisecond) {
				continue
			}
		}
		return err
	}
}

func addOffsets(ctx context.Context, cl *kgo.Client, txn, group string, id int64, epoch int16) error {
	req := kmsg.NewPtrAddOffsetsToTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = txn, id, epoch, group
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// commitInTransaction adds offsets to a transaction, as long as this member has the partitions that
// it must hold.
func (g *Group) commitInTransaction(ctx context.Context, cl *kgo.Client, txn string, id int64, epoch int16, offsets map[partition]int64, mark string, held iter.Seq[partition]) error {
	// The generation is read before the partitions are checked. If the membership is lost and
	// regained in between, other members may have read these partitions. The brokers then refuse
	// the old generation.
	member, generation := g.member.GroupMetadata()
	g.mu.Lock()
	err := g.holds(held)
	g.mu.Unlock()
	if err != nil {
		return err
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch = txn, g.cfg.Group, id, epoch
	req.MemberID, req.Generation = member, generation
	if g.cfg.Instance != "" {
		req.InstanceID = &g.cfg.Instance
	}
	topics := map[string]int{}
	for p, at := range offsets {
		i, ok := topics[p.Topic]
		if !ok {
			i = len(req.Topics)
			topics[p.Topic] = i
			t := kmsg.NewTxnOffsetCommitRequestTopic()
			t.Topic = p.Topic
			req.Topics = append(req.Topics, t)
		}
		q := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		note := g.note(mark, p, at)
		q.Partition, q.Offset, q.Metadata = p.ID, at, &note
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, q)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, q := range t.Partitions {
			if err := kerr.ErrorForCode(q.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

// Newest implements stream.CheckpointStore. After a commit that failed it asks the brokers whether
// the commit was carried out.
func (g *Group) Newest(ctx context.Context) (*checkpoint.Snapshot, error) {
	g.letGo()
	if s := g.unsure; s != nil {
		ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
		defer cancel()
		if err := g.prod.reset(ctx); err != nil {
			return nil, err
		}
		done, err := g.isCommitted(ctx, s)
		if err != nil {
			return nil, err
		}
		if g.unsure = nil; done {
			g.newest = s
		}
	}
	if g.newest == nil {
		return nil, checkpoint.ErrNoCheckpoint
	}
	return g.newest, nil
}

// isCommitted looks for the mark of a checkpoint at the offsets of the group.
func (g *Group) isCommitted(ctx context.Context, s *checkpoint.Snapshot) (bool, error) {
	positions, err := s.Positions("")
	if err != nil {
		return false, err
	}
	var all []partition
	for _, q := range positions {
		p, err := partitionOf(connector.Split{Data: q.Data})
		if err != nil {
			return false, err
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return false, nil
	}
	got, err := g.fetchCommitted(ctx, all)
	if err != nil {
		return false, err
	}
	for _, p := range all {
		if o, ok := got.Lookup(p.Topic, p.ID); ok {
			if mark, _, _, _ := parseNote(o.Metadata); mark == markOf(s) {
				return true, nil
			}
		}
	}
	return false, nil
}
