// Package kafka reads Kafka topics and writes to them, on franz-go.
//
// [Source] reads partitions as splits, whose positions are kept in the job's checkpoints; with a sink that
// is exactly-once, such as files, the job is. [Sink] writes results when they come, and a checkpoint waits until the
// brokers have them: at least once.
//
// A [Group] is for jobs from Kafka to Kafka: it is a member of a consumer group, reads the partitions that it is
// given, and publishes results and offsets in one transaction for each checkpoint. It is the job's checkpoint
// store too, so that nothing of the job's state lies anywhere but in Kafka, and several
// processes with the same group share the partitions.
//
// Nothing here knows what a record means: it is decoded and encoded by functions of the caller.
package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/brief"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// Record is a record of Kafka: topic, partition, offset, key, value, headers, time.
type Record = kgo.Record

// Header is a header of a Record.
type Header = kgo.RecordHeader

// Size is how many bytes a record takes of what a topic allows, at the most and before compression: key, value and headers.
func Size(r *Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 10 // and their lengths
	}
	return n
}

// Config says how Kafka is reached.
type Config struct {
	// Brokers are the first to be asked, as host:port. At least one.
	Brokers []string
	// ClientID names the program in the brokers' logs and quotas. Default: "tensorferry".
	ClientID string
	// TLS for every connection; nil: none.
	TLS *tls.Config
	// SASL is how the program says who it is, of franz-go's sasl packages; nil: not at all.
	SASL sasl.Mechanism
	// Timeout bounds the questions that are asked before anything is read. Default 30 s.
	Timeout time.Duration
	// Options are further options of franz-go, which come last. They can break what this package promises.
	Options []kgo.Opt
	// Logger takes what franz-go says from level warn on. Default: nothing is logged.
	Logger *slog.Logger

	dialing *dialing
}

// DefaultTimeout is how long questions may take before anything is read.
const DefaultTimeout = 30 * time.Second

func (c Config) resolve() (Config, error) {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("kafka: no brokers; name at least one, as host:port"))
	}
	for _, b := range c.Brokers {
		if strings.TrimSpace(b) == "" {
			errs = append(errs, errors.New("kafka: a broker has no name; want host:port"))
		}
	}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("kafka: the timeout is %v; want more than 0, or 0 for %v", c.Timeout, DefaultTimeout))
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.ClientID == "" {
		c.ClientID = "tensorferry"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = guard.Logger(c.Logger)
	c.dialing = &dialing{} // of all clients that are made with c
	return c, errors.Join(errs...)
}

// client makes a client with further options.
func (c *Config) client(opts ...kgo.Opt) (*kgo.Client, error) {
	if c.dialing == nil {
		c.dialing = &dialing{}
	}
	all := []kgo.Opt{kgo.SeedBrokers(c.Brokers...), kgo.ClientID(c.ClientID), kgo.WithLogger(&logger{log: c.Logger}), kgo.WithHooks(c.dialing)}
	if c.TLS != nil {
		all = append(all, kgo.DialTLSConfig(guard.TLS(c.TLS, c.brokeTLS)))
	}
	if c.SASL != nil {
		m, err := guardedMechanism(c.SASL)
		if err != nil {
			return nil, fmt.Errorf("kafka: %w", err)
		}
		all = append(all, kgo.SASL(m))
	}
	var cl *kgo.Client
	err := guard.Apart("franz-go, with the Options,", func() (err error) {
		cl, err = kgo.NewClient(append(append(all, opts...), c.Options...)...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return cl, nil
}

// brokeTLS logs what a function of the TLS configuration has done; the handshake fails with it.
func (c *Config) brokeTLS(err error) {
	if log := guard.Logger(c.Logger); log != nil {
		log.Error("kafka: a function of the TLS configuration failed", "error", err)
	}
}

// logger passes franz-go's words on. While brokers are away a client says the same many times a second; of each
// message one is passed on in quiet.
type logger struct {
	log *slog.Logger

	mu   sync.Mutex
	said map[string]*saying
}

const quiet = 10 * time.Second

type saying struct {
	at   time.Time
	more int // that were not passed on since
}

func (l *logger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l *logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	l.mu.Lock()
	s := l.said[msg]
	if s == nil {
		if l.said == nil {
			l.said = map[string]*saying{}
		}
		s = &saying{}
		l.said[msg] = s
	}
	now := time.Now()
	if !s.at.IsZero() && now.Sub(s.at) < quiet {
		s.more++
		l.mu.Unlock()
		return
	}
	more := s.more
	s.at, s.more = now, 0
	l.mu.Unlock()
	if more > 0 {
		keyvals = append(keyvals, "more_like_this_before", more)
	}
	for i, v := range keyvals {
		if err, ok := v.(error); ok {
			keyvals[i] = brief.Error(err)
		}
	}
	to := slog.LevelWarn
	if level == kgo.LogLevelError {
		to = slog.LevelError
	}
	l.log.Log(context.Background(), to, "kafka: "+msg, keyvals...)
}

// Start is where a partition is read from that nobody has read before.
type Start struct {
	kind startKind
	at   time.Time
}

type startKind uint8

const (
	earliest startKind = iota
	latest
	timestamp
)

// The starts. The zero value is Earliest.
var (
	Earliest = Start{kind: earliest}
	Latest   = Start{kind: latest}
)

// String names a start as a job file does.
func (s Start) String() string {
	switch s.kind {
	case latest:
		return "latest"
	case timestamp:
		return s.at.Format(time.RFC3339Nano)
	}
	return "earliest"
}

// From starts at the first record whose time is not before t.
func From(t time.Time) Start { return Start{timestamp, t} }

// Topics says what is read.
type Topics struct {
	// Names are the topics; with Pattern none.
	Names []string
	// Pattern is a regular expression that matches whole names of topics. Topics that begin with two underscores are
	// never read by a pattern.
	Pattern string
	// Start is where partitions begin that no checkpoint, and no group, has an offset of.
	// Partitions, and topics, that appear once the job, or the group, has begun are read from their
	// first record.
	Start Start
	// OnExpired says what is done where the next record is not there any more. Default FailExpired.
	// A partition that begins at its first record, and of which nothing was read yet, begins at
	// another one when that is deleted, whatever this says.
	OnExpired OnExpired
	// Traces takes the trace context in each record's headers (W3C, traceparent and tracestate) into Record.Trace. Default: they are
	// not looked at.
	Traces bool
}

func (t Topics) resolve() (match func(topic string) bool, err error) {
	if (len(t.Names) == 0) == (t.Pattern == "") {
		return nil, errors.New("kafka: want either names of topics or a pattern")
	}
	if slices.Contains(t.Names, "") {
		return nil, errors.New("kafka: a topic has no name")
	}
	if t.Pattern == "" {
		return func(topic string) bool { return slices.Contains(t.Names, topic) }, nil
	}
	re, err := regexp.Compile("^(?:" + t.Pattern + ")$")
	if err != nil {
		return nil, fmt.Errorf("kafka: the pattern of topics: %w", err)
	}
	return func(topic string) bool { return !strings.HasPrefix(topic, "__") && re.MatchString(topic) }, nil
}

// Decode makes a record's value. What it returns must not share memory with r. An error fails the job at that
// record. It is called from several goroutines. A nil r.Value is a tombstone.
type Decode[T any] func(r *Record) (T, error)

// Raw is a Decode that takes the value as it is. A tombstone has an empty one.
func Raw[T ~[]byte](r *Record) (T, error) { return T(r.Value), nil }

// EventTime is the time of a record: async.NoTime where it has none, and async.BadTime where it has
// one that is out of range. In Kafka that is one before 1970, such as -1, and what the client
// cannot say: a time after 2262, such as one in microseconds.
func EventTime(r *Record) async.EventTime {
	if r.Timestamp.IsZero() {
		return async.NoTime
	}
	// The client counts nanoseconds in 64 bits, which a time after 2262 overflows. Kafka's times
	// are whole milliseconds, and what has overflowed is none any more.
	if r.Timestamp.Nanosecond()%1e6 != 0 || r.Timestamp.UnixMilli() < 0 {
		return async.BadTime
	}
	return async.At(r.Timestamp)
}

// convert makes records of a job of those of a partition.
func convert[T any](decode Decode[T], traces bool, from []*Record, dst []async.Record[T]) (_ []async.Record[T], err error) {
	i := 0
	defer func() {
		if v := recover(); v != nil {
			err = guard.Caught("Decode of the source", v)
		}
		if err != nil {
			r := from[i]
			err = fmt.Errorf("kafka: the record of %s, partition %d, offset %d cannot be decoded: %w", r.Topic, r.Partition, r.Offset, err)
		}
	}()
	var r *Record
	for i, r = range from {
		v, err := decode(r)
		if err != nil {
			return dst, guard.Error("Decode of the source", err)
		}
		dst = append(dst, async.Record[T]{
			Value: v, Position: r.Offset, Key: string(r.Key), Time: EventTime(r),
		})
		if traces {
			dst[len(dst)-1].Trace = contextIn(r.Headers)
		}
	}
	return dst, nil
}
