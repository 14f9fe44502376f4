package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/brief"
)

// permanentError is a failure that a restart does not help against.
type permanentError string

func (e permanentError) Error() string { return string(e) }

func (permanentError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// refusal is an error that the brokers would return again. advice says what to do about it.
type refusal struct {
	err    error
	advice string
}

func (e *refusal) Error() string { return strings.TrimSuffix(e.err.Error(), ".") + "; " + e.advice }

func (e *refusal) Unwrap() error { return e.err }

// Verdict makes a refusal an async.Failure.
func (e *refusal) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

var advice = map[*kerr.Error]string{
	kerr.SaslAuthenticationFailed:           "check the mechanism, the user and the password of sasl",
	kerr.UnsupportedSaslMechanism:           "choose a mechanism of sasl that the brokers have",
	kerr.IllegalSaslState:                   "the brokers at this address do not use SASL; remove sasl",
	kerr.TopicAuthorizationFailed:           "grant the user the right to read, write and describe the topic",
	kerr.GroupAuthorizationFailed:           "grant the user the right to read the consumer group",
	kerr.ClusterAuthorizationFailed:         "grant the user the right to IdempotentWrite",
	kerr.TransactionalIDAuthorizationFailed: "grant the user the right to write the transactional ids that begin with tensorferry-",
	kerr.InvalidTransactionTimeout:          "the brokers allow less (transaction.max.timeout.ms); set a shorter transaction timeout, or raise that limit",
	kerr.InvalidSessionTimeout:              "set a session timeout from group.min.session.timeout.ms to group.max.session.timeout.ms of the brokers",
	kerr.InconsistentGroupProtocol:          "the group has members that share partitions in another way; use a group that only this job uses",
	kerr.FencedInstanceID:                   "another process has joined the group as the same instance; give each process a name of its own",
}

// refused returns an error as a refusal, if it is one. It shortens what a broker said in the error.
func refused(err error) error {
	err = brief.Error(err)
	if e, ok := errors.AsType[*kerr.Error](err); ok && advice[e] != "" {
		return &refusal{err, advice[e]}
	}
	return err
}

// isRefusal reports whether an error is a refusal, so that a restart does not help.
func isRefusal(err error) bool {
	_, ok := errors.AsType[*refusal](err)
	return ok
}

// dialing remembers how the last attempt to reach a broker failed. A client tries again and again,
// and in the end reports only that its time was over. dialing also remembers the open connections:
// a slow broker is within reach, even if other brokers are not.
type dialing struct {
	mu   sync.Mutex
	last error
	open map[net.Conn]bool
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (d *dialing) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, conn net.Conn, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last = brief.Error(err); err == nil {
		if d.open == nil {
			d.open = map[net.Conn]bool{}
		}
		d.open[conn] = true
	}
}

// OnBrokerDisconnect implements kgo.HookBrokerDisconnect.
func (d *dialing) OnBrokerDisconnect(_ kgo.BrokerMetadata, conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, conn)
}

// asked explains the failure of a question to the brokers.
func (c *Config) asked(what string, err error) error {
	if err = refused(err); isRefusal(err) {
		return fmt.Errorf("kafka: %s: %w", what, err)
	}
	return unanswered{c.explained(what, err)}
}

// isPassing reports whether a failure is one of the connection or of the brokers, which may pass.
// Damaged data do not.
func isPassing(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	if _, ok := errors.AsType[*kgo.ErrFirstReadEOF](err); ok {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, kgo.ErrClientClosed) ||
		kerr.IsRetriable(err) && !errors.Is(err, kerr.CorruptMessage)
}

// unanswered is the failure of a question that the brokers may answer later.
type unanswered struct{ error }

func (e unanswered) Unwrap() error { return e.error }

func (unanswered) Verdict() async.Verdict { return async.Verdict{Class: async.Transport, Retry: true} }

func (c *Config) explained(what string, err error) error {
	c.dialing.mu.Lock()
	last, connected := c.dialing.last, len(c.dialing.open) > 0
	c.dialing.mu.Unlock()
	if connected && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("kafka: %s: a broker of %s is connected but has not answered for %v: %w", what, strings.Join(c.Brokers, ", "), c.Timeout, err)
	}
	if last == nil || connected || errors.Is(last, context.Canceled) {
		return fmt.Errorf("kafka: %s: %w", what, err)
	}
	last = refused(last)
	if _, said := errors.AsType[*kgo.ErrFirstReadEOF](last); errors.Is(last, io.EOF) && !said {
		last = fmt.Errorf("%w: the connection was closed at once; the broker may want TLS or SASL, or neither of them", last)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("kafka: %s: no broker could be reached at %s for %v: %w", what, strings.Join(c.Brokers, ", "), c.Timeout, last)
	}
	return fmt.Errorf("kafka: %s: no broker can be reached at %s: %w", what, strings.Join(c.Brokers, ", "), last)
}
