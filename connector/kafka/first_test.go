package kafka

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tensorferry/tensorferry/stream"
)

const firstGone = "the first records were gone before anything was read"

// TestFirstRecordsExpire: a source that reads from the first record on goes on at another first
// record, as long as it has read nothing. It says so, and nothing counts as lost.
func TestFirstRecordsExpire(t *testing.T) {
	for _, group := range []bool{false, true} {
		for name, running := range map[string]bool{"while it waits": true, "while it is stopped": false} {
			for _, how := range []OnExpired{FailExpired, SkipExpired} {
				full := name + ", " + how.String()
				if group {
					full += ", group"
				}
				t.Run(full, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := newBroker(t, 1, "in", "out")
						b.fill("in", 1, 0, 100)
						// Nobody can read until the brokers are back.
						var back atomic.Bool
						b.fake.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
							b.fake.KeepControl()
							return nil, errors.New("away"), !back.Load()
						})
						e := &expiring{t: t, b: b, how: how, group: group, dir: t.TempDir(), out: t.TempDir()}
						run, end := e.start()
						time.Sleep(time.Second)
						first := int64(0)
						for _, first = range []int64{30, 50} { // not only once
							if running {
								b.expire(first)
								time.Sleep(time.Second)
								continue
							}
							run.Stop()
							if err := run.Wait(); err != stream.ErrStopped {
								t.Fatal(err)
							}
							end()
							b.expire(first)
							run, end = e.start()
							time.Sleep(time.Second)
						}
						defer func() { end() }()
						back.Store(true)
						b.await(run, 100-first)
						run.Stop()
						if err := run.Wait(); err != stream.ErrStopped {
							t.Error(err)
						}
						if n := e.results(); n != int(100-first) || e.skipped() != 0 {
							t.Errorf("%d results, %d skipped; want %d and none", n, e.skipped(), 100-first)
						}
						said := map[bool]int{true: 1, false: 2}[running]
						if n := e.log.count(firstGone); n != said {
							t.Errorf("it was said %d times, want %d", n, said)
						}
					})
				})
			}
		}
	}
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// TestOtherBeginningsExpire: a run that began elsewhere than at the first record was promised what
// follows, read or not.
func TestOtherBeginningsExpire(t *testing.T) {
	for name, start := range map[string]Start{"latest": Latest, "a time": From(time.UnixMilli(20))} {
		for _, group := range []bool{false, true} {
			full := name
			if group {
				full += ", group"
			}
			t.Run(full, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBroker(t, 1, "in", "out")
					b.fill("in", 1, 0, 100)
					var back atomic.Bool
					b.fake.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
						b.fake.KeepControl()
						return nil, errors.New("away"), !back.Load()
					})
					e := &expiring{t: t, b: b, group: group, begin: start, dir: t.TempDir(), out: t.TempDir()}
					run, end := e.start()
					time.Sleep(time.Second)
					run.Stop()
					if err := run.Wait(); err != stream.ErrStopped {
						t.Fatal(err)
					}
					end()
					back.Store(true)
					b.fill("in", 1, 100, 200)
					b.expire(150)
					run, end = e.start()
					defer func() { end() }()
					if err := waitFor(run); err == nil || !strings.Contains(err.Error(), "were not read yet and are gone") || e.log.has(firstGone) {
						t.Errorf("it ended with %v", err)
					}
				})
			})
		}
	}
}

// TestAppearedPartitionsBeginAtTheFirst: whatever the start of the others is.
func TestAppearedPartitionsBeginAtTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 2, "in")
		b.fill("in", 2, 0, 100)
		s := NewSource(SourceConfig[[]byte]{Config: b.config(), Topics: Topics{Names: []string{"in"}, Start: Latest}, Decode: Raw[[]byte]})
		all, err := s.Splits(t.Context())
		if err != nil || len(all) != 2 {
			t.Fatal(all, err)
		}
		more, err := s.Appeared(t.Context(), all[1:])
		if err != nil || len(more) != 1 {
			t.Fatal(more, err)
		}
		b.expire(40)
		b.fill("in", 2, 100, 101)
		if now, from, err := s.Locate(t.Context(), more, []int64{0}); err != nil || from[0] != 40 || now[0].Start != 40 {
			t.Errorf("%+v, %v, %v", now, from, err)
		}
		b.expire(101)
		if _, _, err := s.Locate(t.Context(), all[:1], []int64{100}); err == nil {
			t.Error("what came behind the latest record is gone, and nobody says so")
		}
	})
}
