package kafka

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/restart"
)

var often = stream.Config{
	Checkpoint: stream.CheckpointConfig{Interval: 100 * time.Millisecond},
	Restart:    restart.Config{Strategy: restart.FixedDelay, Attempts: 1000, Delay: 100 * time.Millisecond},
}

// A job that starts at the latest records has a beginning that stays: what comes while no member
// reads is read by the next. Partitions that appear later are read from their first record.
func TestGroupStartsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 2, "in", "out")
		cfg := b.group("g")
		cfg.Start, cfg.Discover = Latest, time.Second
		b.fill("in", 2, 0, 100)
		run := func(while func(*stream.Run)) {
			g := NewGroup(cfg)
			defer g.Close()
			r := job(g, often, answer).Start(t.Context())
			while(r)
			r.Stop()
			if err := r.Wait(); err != stream.ErrStopped {
				t.Error(err)
			}
		}
		run(func(*stream.Run) { time.Sleep(time.Second) })
		b.fill("in", 2, 100, 150)
		run(func(r *stream.Run) { b.await(r, 100) })
		// The member is killed before it has read anything.
		g := NewGroup(b.group("other"))
		g.cfg.Start = Latest
		ctx, cancel := context.WithCancel(t.Context())
		r := job(g, often, answer).Start(ctx)
		for r.Progress().State != stream.StateRunning {
			time.Sleep(time.Millisecond)
		}
		cancel()
		r.Wait()
		g.Close()
		cl := b.client()
		defer cl.Close()
		admin := kadm.NewClient(cl)
		at, err := admin.FetchOffsets(t.Context(), "other")
		if o, ok := at.Lookup("in", 1); err != nil || !ok || o.At != 150 {
			t.Errorf("the beginning is not kept: %v, %v", o.At, err)
		}
		run(func(r *stream.Run) {
			time.Sleep(time.Second)
			if _, err := admin.CreatePartitions(t.Context(), 1, "in", "out"); err != nil {
				t.Fatal(err)
			}
			b.fill("in", 3, 150, 200)
			b.await(r, 150)
		})
		out := b.committed("out")
		if len(out[0]) != 100 || len(out[1]) != 100 || len(out[2]) != 50 || out[0][0] != "0/100!" || out[2][0] != "2/150!" {
			t.Errorf("%d, %d and %d results; %v", len(out[0]), len(out[1]), len(out[2]), out[2][:1])
		}
	})
}

// A member that was killed in the midst of a commit leaves its transaction open. The next one waits
// until the brokers end it.
func TestGroupWaitsForAnOpenTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "in", "out")
		b.fill("in", 1, 0, 100)
		began := time.Now()
		b.fake.ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
			b.fake.KeepControl()
			r := req.(*kmsg.OffsetFetchRequest)
			if time.Since(began) > 70*time.Second || !r.RequireStable || r.Topics != nil || len(r.Groups) != 1 || r.Groups[0].Topics != nil {
				return nil, nil, false
			}
			resp := r.ResponseKind().(*kmsg.OffsetFetchResponse)
			for _, qg := range r.Groups {
				group := kmsg.NewOffsetFetchResponseGroup()
				group.Group = qg.Group
				group.ErrorCode = kerr.UnstableOffsetCommit.Code
				resp.Groups = append(resp.Groups, group)
			}
			return resp, nil, true
		})
		g := NewGroup(b.group("g"))
		defer g.Close()
		run := job(g, often, answer).Start(t.Context())
		b.await(run, 100)
		if d := time.Since(began); d < 70*time.Second {
			t.Errorf("it took %v", d)
		}
		run.Stop()
		run.Wait()
		b.check(b.committed("out"), 1, 100, true)
	})
}

// Changed returns if partitions have to be released, whenever that was requested.
func TestGroupIsToldOfWhatLeaves(t *testing.T) {
	g := NewGroup(GroupConfig{Config: Config{Brokers: []string{"x:1"}}, Topics: Topics{Names: []string{"in"}}, Group: "g"})
	p := partition{"in", 0}
	g.owned[p], g.leaving[p], g.version, g.seen, g.hold = true, true, 3, 3, true
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := g.waitChanged(ctx); err != nil {
		t.Error(err)
	}
}

// Two processes with the same instance: the newer goes on, the older ends and says why.
func TestGroupInstanceTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 2, "in", "out")
		b.fill("in", 2, 0, 3000)
		cfg := b.group("g")
		cfg.Instance = "one"
		start := func() (*Group, *stream.Run) {
			g := NewGroup(cfg)
			return g, job(g, often, func(ctx context.Context, v []byte) ([]byte, error) {
				time.Sleep(200 * time.Millisecond)
				return answer(ctx, v)
			}).Start(t.Context())
		}
		g, older := start()
		defer g.Close()
		b.await(older, 500)
		h, newer := start()
		defer h.Close()
		err := older.Wait()
		if err == nil || !strings.Contains(err.Error(), "another process has joined the group as the same instance") || async.VerdictOf(err).Class != async.Permanent {
			t.Errorf("the older ended with %v", err)
		}
		time.Sleep(10 * time.Second) // its client would have come back by now
		g.Close()
		for i := 0; i < 1000 && len(b.committed("out")[0])+len(b.committed("out")[1]) < 6000; i++ {
			time.Sleep(time.Second)
		}
		newer.Stop()
		if err := newer.Wait(); err != stream.ErrStopped {
			t.Errorf("the newer ended with %v", err)
		}
		b.check(b.committed("out"), 2, 3000, true)
	})
}

// If the brokers would refuse again, the job ends at once, and the error says what to do.
func TestRefusals(t *testing.T) {
	answers := func(key kmsg.Key, e *kerr.Error) func(*broker, *GroupConfig) {
		return func(b *broker, _ *GroupConfig) {
			b.fake.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
				b.fake.KeepControl()
				resp := req.ResponseKind()
				switch r := resp.(type) {
				case *kmsg.InitProducerIDResponse:
					r.ErrorCode = e.Code
				case *kmsg.SASLAuthenticateResponse:
					r.ErrorCode = e.Code
				case *kmsg.JoinGroupResponse:
					r.ErrorCode = e.Code
				}
				return resp, nil, true
			})
		}
	}
	for name, c := range map[string]struct {
		set  func(*broker, *GroupConfig)
		says []string
	}{
		"closed": {func(_ *broker, c *GroupConfig) { c.SASL = plain.Auth{User: "u", Pass: "wrong"}.AsMechanism() },
			[]string{"no broker can be reached at", "may want TLS or SASL"}},
		"password": {func(b *broker, c *GroupConfig) {
			c.SASL = plain.Auth{User: "u", Pass: "wrong"}.AsMechanism()
			answers(kmsg.SASLAuthenticate, kerr.SaslAuthenticationFailed)(b, c)
		},
			[]string{"check the mechanism, the user and the password of sasl"}},
		"mechanism": {func(_ *broker, c *GroupConfig) { c.SASL = nothingMechanism{} },
			[]string{"choose a mechanism of sasl that the brokers have"}},
		"nobody": {func(_ *broker, c *GroupConfig) {
			c.Brokers = []string{"nobody:9092"}
			c.Options = []kgo.Opt{kgo.Dialer(nobody)}
		}, []string{"no broker can be reached at nobody:9092", "connection refused"}},
		"transaction timeout": {answers(kmsg.InitProducerID, kerr.InvalidTransactionTimeout), []string{"taking up the transactional id tensorferry-g-", "transaction.max.timeout.ms"}},
		"transactional id":    {answers(kmsg.InitProducerID, kerr.TransactionalIDAuthorizationFailed), []string{"grant the user the right to write the transactional ids"}},
		"session timeout":     {answers(kmsg.JoinGroup, kerr.InvalidSessionTimeout), []string{`the consumer group "g"`, "set a session timeout from"}},
		"group":               {answers(kmsg.JoinGroup, kerr.GroupAuthorizationFailed), []string{"grant the user the right to read the consumer group"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, 1, "in", "out")
				cfg := b.group("g")
				if slices.Contains([]string{"closed", "password", "mechanism"}, name) {
					b = &broker{t: t}
					var err error
					b.fake, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(b.net.Listen), kfake.EnableSASL(), kfake.Superuser("PLAIN", "u", "right"))
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(b.fake.Close)
					cfg = b.group("g")
				}
				c.set(b, &cfg)
				g := NewGroup(cfg)
				defer g.Close()
				began := time.Now()
				err := job(g, often, answer).Run(t.Context())
				for _, says := range c.says {
					if err == nil || !strings.Contains(err.Error(), says) {
						t.Errorf("%v; want %q", err, says)
					}
				}
				if d := time.Since(began); d > 31*time.Second || name != "nobody" && d > 6*time.Second {
					t.Errorf("it took %v", d)
				}
			})
		})
	}
}

// nothingMechanism is a mechanism that no broker has.
type nothingMechanism struct{}

func (nothingMechanism) Name() string { return "NOTHING" }

func (nothingMechanism) Authenticate(context.Context, string) (sasl.Session, []byte, error) {
	return nil, nil, nil
}

func nobody(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("connection refused")
}

// A pattern never matches topics that begin with two underscores, also in a group.
func TestPatternOfGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "in", "__in", "out")
		b.fill("in", 1, 0, 10)
		b.fill("__in", 1, 0, 10)
		cfg := b.group("g")
		cfg.Names, cfg.Pattern = nil, ".*in"
		g := NewGroup(cfg)
		defer g.Close()
		run := job(g, often, answer).Start(t.Context())
		time.Sleep(10 * time.Second)
		if p := run.Progress(); p.Read != 10 {
			t.Errorf("%d records were read; want 10, those of \"in\"", p.Read)
		}
		run.Stop()
		run.Wait()
	})
}

// fickle cannot be opened, and answers nothing, while away is set.
type fickle struct {
	async.Function[[]byte, []byte]
	away *atomic.Bool
}

var errAway = errors.New("the server is away")

func newFickle(away *atomic.Bool) fickle {
	return fickle{async.Func(func(ctx context.Context, v []byte) ([]byte, error) {
		if away.Load() {
			return nil, errAway
		}
		time.Sleep(50 * time.Millisecond)
		return answer(ctx, v)
	}, 64), away}
}

func (f fickle) Open(ctx context.Context, s async.Subtask, c async.Completer[[]byte]) (async.Caller[[]byte, []byte], error) {
	if f.away.Load() {
		return nil, errAway
	}
	return f.Function.Open(ctx, s, c)
}

// A member whose job waits for its restart reads nothing, and gives up its partitions at once, also
// if the last attempt was never open.
func TestPartitionsAreGivenUpWhileAJobWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 2, "in", "out")
		b.fill("in", 2, 0, 1000)
		start := func(g *Group, away *atomic.Bool, delay time.Duration) *stream.Run {
			cfg := often
			cfg.Restart.Delay = delay
			cfg.Checkpoint.Store = g
			j := stream.New("j", cfg)
			answers := stream.OrderedWait(stream.From(j, GroupSource(g, Raw[[]byte])), async.Function[[]byte, []byte](newFickle(away)), ordered)
			stream.To(answers, GroupSink(g, SinkConfig[[]byte]{Topic: "out", Encode: same(g)}))
			return j.Start(t.Context())
		}
		var away, never atomic.Bool
		g, h := NewGroup(b.group("g")), NewGroup(b.group("g"))
		defer g.Close()
		defer h.Close()
		waits := start(g, &away, 50*time.Second)
		b.await(waits, 100)
		away.Store(true)
		time.Sleep(55 * time.Second) // it has failed, and then could not be opened
		began := time.Now()
		other := start(h, &never, time.Second)
		b.await(other, 1)
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("another member had partitions after %v", took)
		}
		waits.Stop()
		other.Stop()
		waits.Wait()
		other.Wait()
	})
}
