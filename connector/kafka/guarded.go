package kafka

import (
	"context"
	"errors"
	"reflect"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/tensorferry/tensorferry/internal/guard"
)

// Functions of users that are passed to franz-go are called on its goroutines, where a panic would
// end the process.

// mechanism is a user's SASL mechanism.
type mechanism struct {
	sasl.Mechanism
	name string
}

func guardedMechanism(m sasl.Mechanism) (sasl.Mechanism, error) {
	g := mechanism{Mechanism: m}
	err := guard.Apart("Name of the SASL mechanism", func() error {
		g.name = m.Name()
		return nil
	})
	if c, ok := m.(sasl.ClosingMechanism); ok {
		return closingMechanism{g, c}, err
	}
	return g, err
}

func (m mechanism) Name() string { return m.name }

func (m mechanism) Authenticate(ctx context.Context, host string) (s sasl.Session, first []byte, err error) {
	err = guard.Apart("Authenticate of the SASL mechanism", func() (err error) {
		s, first, err = m.Mechanism.Authenticate(ctx, host)
		if err == nil && s == nil {
			err = errors.New("the SASL mechanism's Authenticate returned neither a session nor an error")
		}
		return err
	})
	return session{s}, first, err
}

type closingMechanism struct {
	mechanism
	to sasl.ClosingMechanism
}

// Close cannot report an error.
func (m closingMechanism) Close() {
	_ = guard.Apart("Close of the SASL mechanism", func() error {
		m.to.Close()
		return nil
	})
}

type session struct{ to sasl.Session }

func (s session) Challenge(told []byte) (done bool, answer []byte, err error) {
	err = guard.Apart("Challenge of the SASL session", func() (err error) {
		done, answer, err = s.to.Challenge(told)
		return err
	})
	return done, answer, err
}

// guardedPartitioner returns p so that a panic in it fails the record. The partition is then -1,
// which franz-go refuses, and broke gets the reason.
func guardedPartitioner(p kgo.Partitioner, broke func(error)) kgo.Partitioner {
	if strings.HasPrefix(reflect.TypeOf(p).String(), "*kgo.") || strings.HasPrefix(reflect.TypeOf(p).String(), "kgo.") {
		return p
	}
	return partitioner{p, broke}
}

type partitioner struct {
	to    kgo.Partitioner
	broke func(error)
}

// choose calls f on another goroutine, since franz-go holds locks meanwhile. It returns the choice
// of f, or -1 if f fails.
func (p partitioner) choose(method string, f func() int) (choice int) {
	err := guard.Apart(method+" of the Partitioner", func() error {
		choice = f()
		return nil
	})
	if err != nil {
		p.broke(err)
		return -1
	}
	return choice
}

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	var to kgo.TopicPartitioner
	p.choose("ForTopic", func() int {
		if to = p.to.ForTopic(topic); to == nil {
			panic("it returned nil for the topic " + topic)
		}
		return 0
	})
	if to == nil {
		return noPartitioner{}
	}
	t := topicPartitioner{p, to}
	backup, hasBackup := to.(kgo.TopicBackupPartitioner)
	batches, hasBatches := to.(kgo.TopicPartitionerOnNewBatch)
	switch {
	case hasBackup && hasBatches:
		return struct {
			backupPartitioner
			batchPartitioner
		}{backupPartitioner{t, backup}, batchPartitioner{p, batches}}
	case hasBackup:
		return backupPartitioner{t, backup}
	case hasBatches:
		return struct {
			topicPartitioner
			batchPartitioner
		}{t, batchPartitioner{p, batches}}
	}
	return t
}

// noPartitioner replaces a partitioner that ForTopic did not return.
type noPartitioner struct{}

func (noPartitioner) RequiresConsistency(*Record) bool { return false }
func (noPartitioner) Partition(*Record, int) int       { return -1 }

type topicPartitioner struct {
	p  partitioner
	to kgo.TopicPartitioner
}

func (t topicPartitioner) RequiresConsistency(r *Record) bool {
	return t.p.choose("RequiresConsistency", func() int {
		if t.to.RequiresConsistency(r) {
			return 1
		}
		return 0
	}) == 1
}

func (t topicPartitioner) Partition(r *Record, n int) int {
	return t.p.choose("Partition", func() int { return t.to.Partition(r, n) })
}

type backupPartitioner struct {
	topicPartitioner
	backup kgo.TopicBackupPartitioner
}

func (t backupPartitioner) PartitionByBackup(r *Record, n int, backup kgo.TopicBackupIter) int {
	return t.p.choose("PartitionByBackup", func() int { return t.backup.PartitionByBackup(r, n, backup) })
}

type batchPartitioner struct {
	p       partitioner
	batches kgo.TopicPartitionerOnNewBatch
}

func (t batchPartitioner) OnNewBatch() {
	t.p.choose("OnNewBatch", func() int {
		t.batches.OnNewBatch()
		return 0
	})
}
