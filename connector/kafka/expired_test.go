package kafka

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream"
)

// expire deletes the records of partition 0 of "in" before an offset, as retention does.
func (b *broker) expire(before int64) {
	b.t.Helper()
	admin, done := b.admin()
	defer done()
	gone := kadm.Offsets{}
	gone.Add(kadm.Offset{Topic: "in", Partition: 0, At: before})
	if _, err := admin.DeleteRecords(b.t.Context(), gone); err != nil {
		b.t.Fatal(err)
	}
}

// renew deletes "in" and makes it anew, with n records.
func (b *broker) renew(n int) {
	b.t.Helper()
	admin, done := b.admin()
	defer done()
	if _, err := admin.DeleteTopics(b.t.Context(), "in"); err != nil {
		b.t.Fatal(err)
	}
	b.create(1, "in")
	b.fill("in", 1, 0, n)
}

// lines is a text that a logger writes.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

// expiring is a job of partition 0 of "in" with its state at offset 100, before something happens
// to the topic.
type expiring struct {
	t   *testing.T
	b   *broker
	log lines
	how OnExpired

	dir, out string
	begin    Start
	src      *Source[[]byte]
	g        *Group
	group    bool
}

func (e *expiring) config() (Config, Topics) {
	cfg := e.b.config()
	cfg.Logger = slog.New(slog.NewTextHandler(&e.log, nil))
	return cfg, Topics{Names: []string{"in"}, OnExpired: e.how, Start: e.begin}
}

// start starts the job, and returns what ends with it.
func (e *expiring) start() (*stream.Run, func()) {
	cfg, topics := e.config()
	if e.group {
		gc := e.b.group("g")
		gc.Config, gc.Topics = cfg, topics
		e.g = NewGroup(gc)
		return job(e.g, often, answer).Start(e.t.Context()), func() { e.g.Close() }
	}
	e.src = NewSource(SourceConfig[[]byte]{Config: cfg, Topics: topics, Decode: Raw[[]byte]})
	run, store := e.b.begin(e.t.Context(), e.dir, e.out, e.src, 100*time.Millisecond)
	return run, func() { store.Close() }
}

func (e *expiring) skipped() int64 {
	if e.group {
		return e.g.skipped.n.Load()
	}
	return e.src.Skipped()
}

func (e *expiring) results() int {
	if e.group {
		return len(e.b.committed("out")[0])
	}
	return results(e.t, e.out)
}

// waitFor waits for the end of a run, for some time.
func waitFor(r *stream.Run) error {
	select {
	case <-r.Done():
		return r.Wait()
	case <-time.After(10 * time.Minute):
		r.Stop()
		r.Wait()
		return errors.New("it went on")
	}
}

// If the next record is gone, the job ends and says which records exist. With SkipExpired it goes
// on at the first existing record and counts the skipped ones.
func TestExpired(t *testing.T) {
	for _, c := range []struct {
		name    string
		happens func(b *broker) // while the job is stopped at offset 100 of 100
		says    []string
		skips   int64
		results int // of a job that goes on
	}{
		{"retention", func(b *broker) { b.fill("in", 1, 100, 200); b.expire(150) },
			[]string{"in, partition 0", "from offset 100 on were not read yet and are gone", "the first record is now at offset 150", "ends at 200", "on_expired: earliest"}, 50, 150},
		{"retention of all", func(b *broker) { b.fill("in", 1, 100, 200); b.expire(200) },
			[]string{"from offset 100 on", "the first record is now at offset 200", "ends at 200"}, 100, 100},
		{"made anew and shorter", func(b *broker) { b.renew(30) },
			[]string{"in, partition 0", "the topic was deleted and made anew", "from offset 100 on", "ends at 30"}, 0, 130},
		{"made anew and longer", func(b *broker) { b.renew(300) },
			[]string{"the topic was deleted and made anew", "from offset 100 on", "the first record is now at offset 0", "ends at 300"}, 0, 400},
	} {
		for _, how := range []OnExpired{FailExpired, SkipExpired} {
			for _, group := range []bool{false, true} {
				for _, running := range []bool{false, true} {
					name := c.name + ", " + how.String()
					if group {
						name += ", group"
					}
					if running {
						name += ", while it reads"
					}
					t.Run(name, func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							b := newBroker(t, 1, "in", "out")
							b.fill("in", 1, 0, 100)
							e := &expiring{t: t, b: b, how: how, group: group, dir: t.TempDir(), out: t.TempDir()}
							run, end := e.start()
							b.await(run, 100)
							if running {
								// The brokers are away for the job
								// while it happens.
								var back atomic.Bool
								b.fake.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
									b.fake.KeepControl()
									return nil, errors.New("away"), !back.Load()
								})
								time.Sleep(time.Second)
								c.happens(b)
								back.Store(true)
							} else {
								run.Stop()
								if err := run.Wait(); err != stream.ErrStopped {
									t.Fatal(err)
								}
								end()
								c.happens(b)
								run, end = e.start()
							}
							defer end()
							// Brokers forget the offsets of a deleted topic.
							// A member that did not run then begins to
							// read a new topic.
							forgotten := group && !running && c.skips == 0
							if how == FailExpired && !forgotten {
								err := waitFor(run)
								for _, text := range c.says {
									if err == nil || !strings.Contains(err.Error(), text) {
										t.Errorf("it ended with %v; want %q in it", err, text)
									}
								}
								if async.VerdictOf(err).Class != async.Permanent {
									t.Errorf("it is of class %v", async.VerdictOf(err).Class)
								}
								if n := e.results(); n != 100 || e.skipped() != 0 {
									t.Errorf("%d results, %d skipped", n, e.skipped())
								}
								return
							}
							time.Sleep(30 * time.Second)
							run.Stop()
							if err := run.Wait(); err != stream.ErrStopped {
								t.Error(err)
							}
							if n := e.results(); n != c.results || e.skipped() != c.skips || e.log.has("records were gone before they were read") == forgotten {
								t.Errorf("%d results, %d skipped; want %d and %d", n, e.skipped(), c.results, c.skips)
							}
						})
					})
				}
			}
		}
	}
}

// If an offset of a group is left although its topic was made anew, the note of the offset shows
// that.
func TestExpiredOffsetOfAnotherTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "in", "out")
		b.fill("in", 1, 0, 100)
		b.commitAs("tensorferry 0123 3 topic=AAAAAAAAAAAAAAAAAAAAAQ== of=topics:in", map[partition]int64{{"in", 0}: 40})
		g := NewGroup(b.group("g"))
		err := waitFor(job(g, often, answer).Start(t.Context()))
		g.Close()
		if err == nil || !strings.Contains(err.Error(), "its id was AAAAAAAAAAAAAAAAAAAAAQ== and is ") {
			t.Errorf("it ended with %v", err)
		}
		cfg := b.group("g")
		cfg.OnExpired = SkipExpired
		g = NewGroup(cfg)
		defer g.Close()
		run := job(g, often, answer).Start(t.Context())
		b.await(run, 100)
		run.Stop()
		run.Wait()
		b.check(b.committed("out"), 1, 100, true)
	})
}
