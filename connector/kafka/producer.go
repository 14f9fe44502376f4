package kafka

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

// producer is the transactional client that all sinks of a group share. A transaction begins with
// the first record, and holds everything since the last checkpoint.
type producer struct {
	cfg *GroupConfig
	id  string

	limits sync.Map // by topic: how many bytes may go to a partition at once (int)

	mu     sync.RWMutex // for writing: begin, end and replace; for reading: produce
	cl     *kgo.Client
	began  bool // the client has a transaction
	open   bool // the brokers have one, with offsets
	failed *failures
}

func (p *producer) init(cfg *GroupConfig) {
	p.cfg, p.failed = cfg, &failures{}
	name := cfg.Instance
	if name == "" {
		name = rand.Text()
	}
	p.id = "tensorferry-" + cfg.Group + "-" + name
}

// limit sets how many bytes may go to a partition of a topic at once. It is called before anything
// is written there.
func (p *producer) limit(topic string, most int) { p.limits.Store(topic, most) }

func (p *producer) batch(topic string) int32 {
	for _, of := range []string{topic, ""} { // a sink without a topic may write to any
		if most, ok := p.limits.Load(of); ok {
			return int32(most.(int))
		}
	}
	return DefaultMaxRecord + overhead
}

// client returns the client, and makes it at its first use. Under p.mu, for writing.
func (p *producer) client() (*kgo.Client, error) {
	if p.cl != nil {
		return p.cl, nil
	}
	cfg := SinkConfig[struct{}]{Partitioner: p.cfg.Partitioner, Compression: p.cfg.Compression}
	cl, err := p.cfg.client(append(cfg.producing(p.failed.set),
		kgo.ProducerBatchMaxBytesFn(p.batch), kgo.TransactionalID(p.id), kgo.TransactionTimeout(p.cfg.TransactionTimeout),
		// Our own requests add offsets to the transaction. They need this version of the protocol.
		kgo.MaxVersions(kversion.V3_8_0()),
	)...)
	p.cl = cl
	return cl, err
}

// begin makes sure that there is a transaction.
func (p *producer) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.began {
		return nil
	}
	cl, err := p.client()
	if err != nil {
		return err
	}
	if err := cl.BeginTransaction(); err != nil {
		return fmt.Errorf("kafka: beginning a transaction: %w", err)
	}
	p.began = true
	return nil
}

// produce writes a record in the present transaction. It may wait for room in the client's buffer.
func (p *producer) produce(ctx context.Context, k *Record, split int, position int64) error {
	for {
		p.mu.RLock()
		if p.began {
			failed := p.failed
			p.cl.Produce(ctx, k, func(k *Record, err error) { failed.written(k, p.explain(err), split, position) })
			p.mu.RUnlock()
			return failed.get()
		}
		p.mu.RUnlock()
		if err := p.begin(); err != nil {
			return err
		}
	}
}

// flush waits until the brokers have everything.
func (p *producer) flush(ctx context.Context) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.cl != nil {
		if err := p.cl.Flush(ctx); err != nil {
			return fmt.Errorf("kafka: waiting for the brokers: %w", err)
		}
	}
	return p.failed.get()
}

// clean discards what was not committed.
func (p *producer) clean(ctx context.Context) error {
	p.mu.RLock()
	nothing := !p.began && !p.open && p.failed.get() == nil
	p.mu.RUnlock()
	if nothing {
		return nil
	}
	return p.reset(ctx)
}

// reset ends the present transaction without publishing anything. It also ends one that only the
// brokers still know.
func (p *producer) reset(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cl != nil {
		p.cl.Close()
	}
	p.cl, p.began, p.open, p.failed = nil, false, false, &failures{}
	cl, err := p.client()
	if err != nil {
		return err
	}
	// A new producer id, or a new epoch of the same id, makes the brokers end an open transaction.
	if _, _, err := cl.ProducerID(ctx); err != nil {
		return p.cfg.asked("taking up the transactional id "+p.id, err)
	}
	return nil
}

func (p *producer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cl == nil {
		return
	}
	if p.began {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		// If this fails, the transaction ends by its timeout.
		_ = p.cl.AbortBufferedRecords(ctx)
		_ = p.cl.EndTransaction(ctx, kgo.TryAbort)
		cancel()
	}
	p.cl.Close()
	p.cl, p.began = nil, false
}

// explain adds what may have ended a transaction. That is not a refusal: the job takes the id up
// again and goes back to its checkpoint.
func (p *producer) explain(err error) error {
	for _, e := range []error{kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.InvalidProducerIDMapping, kerr.InvalidTxnState} {
		if errors.Is(err, e) {
			return fmt.Errorf("the brokers have ended the transaction: it was open for longer than its timeout (%v), "+
				"or another process has taken its id, %s: %w", p.cfg.TransactionTimeout, p.id, err)
		}
	}
	return refused(err)
}
