package kafka

import (
	"context"
	"errors"
	"fmt"
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

// latestGroup is a group that begins at the latest records, with these topics.
func (b *broker) latestGroup(topics Topics) GroupConfig {
	cfg := b.group("g")
	cfg.Topics, cfg.Start = topics, Latest
	return cfg
}

// run runs a job to the topic "results", whose records say where theirs came from: "in 2".
func (b *broker) run(cfg GroupConfig, while func(*stream.Run)) {
	b.t.Helper()
	g := NewGroup(cfg)
	defer g.Close()
	encode := func(r *async.Record[[]byte]) (*Record, error) {
		topic, id, ok := g.Partition(r.Split)
		if !ok {
			return nil, errors.New("of no partition")
		}
		return &Record{Value: fmt.Appendf(nil, "%s %d", topic, id)}, nil
	}
	c := often
	c.Checkpoint.Store = g
	j := stream.New("j", c)
	stream.To(stream.From(j, GroupSource(g, Raw[[]byte])), GroupSink(g, SinkConfig[[]byte]{Topic: "results", Encode: encode}))
	r := j.Start(b.t.Context())
	while(r)
	r.Stop()
	if err := r.Wait(); err != stream.ErrStopped {
		b.t.Error(err)
	}
}

func (b *broker) admin() (*kadm.Client, func()) {
	b.t.Helper()
	cl := b.client()
	return kadm.NewClient(cl), cl.Close
}

func (b *broker) partitions(more int, topics ...string) {
	b.t.Helper()
	admin, done := b.admin()
	defer done()
	if _, err := admin.CreatePartitions(b.t.Context(), more, topics...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *broker) create(n int32, topic string) {
	b.t.Helper()
	admin, done := b.admin()
	defer done()
	if _, err := admin.CreateTopic(b.t.Context(), n, 1, nil, topic); err != nil {
		b.t.Fatal(err)
	}
}

// commitAs commits offsets of the group as another program or an earlier version does.
func (b *broker) commitAs(note string, at map[partition]int64) {
	b.t.Helper()
	admin, done := b.admin()
	defer done()
	offsets := kadm.Offsets{}
	for p, n := range at {
		offsets.Add(kadm.Offset{Topic: p.Topic, Partition: p.ID, At: n, LeaderEpoch: -1, Metadata: note})
	}
	if err := admin.CommitAllOffsets(b.t.Context(), "g", offsets); err != nil {
		b.t.Fatal(err)
	}
}

func seconds(n int) func(*stream.Run) {
	return func(*stream.Run) { time.Sleep(time.Duration(n) * time.Second) }
}

// A partition is new if it has appeared since the group began, and not since the process began. The
// partitions that existed then are read from their latest records of that time, and new ones from
// their first record.
func TestGroupKnowsWhatIsNew(t *testing.T) {
	in, wide := Topics{Names: []string{"in"}}, Topics{Pattern: "in.*"}
	for _, c := range []struct {
		name string
		do   func(b *broker)
		want map[string]int // results by topic and partition
	}{
		{"a partition, while a member runs", func(b *broker) {
			b.run(b.latestGroup(in), func(*stream.Run) {
				time.Sleep(2 * time.Second)
				b.partitions(1, "in")
				b.fill("in", 3, 100, 120)
				time.Sleep(5 * time.Minute)
			})
		}, map[string]int{"in 0": 20, "in 1": 20, "in 2": 20}},
		{"a partition, before another process", func(b *broker) {
			b.run(b.latestGroup(in), seconds(2))
			b.partitions(1, "in")
			b.fill("in", 3, 100, 120)
			b.run(b.latestGroup(in), seconds(10))
		}, map[string]int{"in 0": 20, "in 1": 20, "in 2": 20}},
		{"a partition, before a second member", func(b *broker) {
			b.run(b.latestGroup(in), func(*stream.Run) {
				time.Sleep(2 * time.Second)
				b.partitions(1, "in")
				b.fill("in", 3, 100, 120)
				b.run(b.latestGroup(in), seconds(300))
			})
		}, map[string]int{"in 0": 20, "in 1": 20, "in 2": 20}},
		{"a topic that matches, before another process", func(b *broker) {
			b.run(b.latestGroup(wide), seconds(2))
			b.create(2, "in2")
			b.fill("in2", 2, 0, 30)
			b.run(b.latestGroup(wide), seconds(10))
		}, map[string]int{"in2 0": 30, "in2 1": 30}},
		{"the same of a group that nobody wrote to", func(b *broker) {
			b.run(b.latestGroup(wide), seconds(2))
			b.run(b.latestGroup(wide), seconds(2))
			b.create(1, "in2")
			b.fill("in2", 1, 0, 30)
			b.run(b.latestGroup(wide), seconds(10))
		}, map[string]int{"in2 0": 30}},
		{"a topic that was there and is read from now on", func(b *broker) {
			b.run(b.latestGroup(in), seconds(2))
			b.fill("in", 2, 100, 110)
			b.run(b.latestGroup(Topics{Names: []string{"old", "in"}}), func(*stream.Run) {
				time.Sleep(2 * time.Second)
				b.fill("old", 2, 100, 120)
				time.Sleep(5 * time.Second)
			})
		}, map[string]int{"in 0": 10, "in 1": 10, "old 0": 20, "old 1": 20}},
		{"a pattern that is widened, and a topic of the narrow one", func(b *broker) {
			b.run(b.latestGroup(wide), seconds(2))
			b.create(1, "in2")
			b.fill("in2", 1, 0, 30)
			b.run(b.latestGroup(Topics{Pattern: "in.*|old"}), func(*stream.Run) {
				time.Sleep(2 * time.Second)
				b.fill("old", 2, 100, 120)
				time.Sleep(5 * time.Second)
			})
		}, map[string]int{"in2 0": 30, "old 0": 20, "old 1": 20}},
		{"topics too many to be named", func(b *broker) {
			long := Topics{Pattern: "in.*|" + strings.Repeat("x", 300)}
			b.run(b.latestGroup(long), seconds(2))
			b.create(1, "in2")
			b.fill("in2", 1, 0, 30)
			b.run(b.latestGroup(long), seconds(10))
		}, map[string]int{"in2 0": 30}},
		{"a group of an earlier version", func(b *broker) {
			b.commitAs("tensorferry 0123456789abcdef 7", map[partition]int64{{"in", 0}: 90, {"in", 1}: 100})
			b.partitions(1, "in")
			b.fill("in", 3, 100, 120)
			b.run(b.latestGroup(in), seconds(10))
		}, map[string]int{"in 0": 30, "in 1": 20, "in 2": 20}},
		{"a group whose offsets are all gone", func(b *broker) {
			b.run(b.latestGroup(in), seconds(2))
			b.fill("in", 2, 100, 120)
			admin, done := b.admin()
			defer done()
			if _, err := admin.DeleteGroups(b.t.Context(), "g"); err != nil {
				b.t.Fatal(err)
			}
			b.run(b.latestGroup(in), func(*stream.Run) { // it begins once more
				time.Sleep(2 * time.Second)
				b.fill("in", 2, 120, 130)
				time.Sleep(5 * time.Second)
			})
		}, map[string]int{"in 0": 10, "in 1": 10}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, 2, "in", "old")
				b.create(1, "results")
				b.fill("in", 2, 0, 100)
				b.fill("old", 2, 0, 100)
				c.do(b)
				got := map[string]int{}
				for _, v := range b.committed("results")[0] {
					got[v]++
				}
				if fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("results by partition: %v; want %v", got, c.want)
				}
			})
		})
	}
}

// Members that begin at once, while records come, and are killed as they do: none is left out from
// the first beginning on, and none is read twice.
func TestGroupBeginsOnce(t *testing.T) {
	for _, kill := range []kmsg.Key{-1, kmsg.InitProducerID, kmsg.AddOffsetsToTxn, kmsg.TxnOffsetCommit, kmsg.EndTxn} {
		t.Run(kmsg.NameForKey(int16(kill)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, 4, "in", "out")
				b.fill("in", 4, 0, 100)
				var victim atomic.Pointer[member]
				var once sync.Once
				if kill >= 0 {
					b.fake.ControlKey(int16(kill), func(kmsg.Request) (kmsg.Response, error, bool) {
						b.fake.KeepControl()
						once.Do(func() {
							if m := victim.Load(); m != nil {
								m.cut.sever() // its connections end, and the request is carried out
							}
						})
						return nil, nil, false
					})
				}
				begin := func() *member { return b.startAt("g", Latest) }
				first := begin()
				victim.Store(first)
				members := []*member{first, begin(), begin()}
				for i := 100; i < 160; i++ {
					b.fill("in", 4, i, i+1)
					time.Sleep(100 * time.Millisecond)
				}
				if kill >= 0 {
					first.kill()
					members = members[1:]
				}
				// A member that died as it joined holds the others up, for some
				// minutes at most.
				for range 100 {
					time.Sleep(10 * time.Second)
					done := 0
					for _, values := range b.committed("out") {
						if strings.HasSuffix(values[len(values)-1], "/159!") {
							done++
						}
					}
					if done == 4 {
						break
					}
				}
				for _, m := range members {
					m.leave()
				}
				for id, values := range b.committed("out") {
					for i, v := range values {
						if want := fmt.Sprintf("%d/%d!", id, 160-len(values)+i); v != want {
							t.Fatalf("partition %d: %s stands where %s should", id, v, want)
						}
					}
					if len(values) < 20 {
						t.Errorf("partition %d: the group began before its last %d records", id, len(values))
					}
				}
			})
		})
	}
}

// A member that stands still as it begins, while another begins and reads, does not set that one's
// offsets back.
func TestGroupBeginningIsFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 4, "in", "out")
		b.fill("in", 4, 0, 100)
		var slept atomic.Bool
		b.fake.ControlKey(int16(kmsg.AddOffsetsToTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
			b.fake.KeepControl()
			if !slept.Swap(true) {
				b.fake.SleepControl(func() { time.Sleep(3 * time.Second) })
			}
			return nil, nil, false
		})
		cfg := b.group("g")
		cfg.Start = Latest
		groups := []*Group{NewGroup(cfg), NewGroup(cfg)}
		for _, g := range groups {
			defer g.Close()
			if err := g.join(); err != nil {
				t.Fatal(err)
			}
		}
		for _, g := range groups {
			// Both have partitions before either begins.
			if err := g.await(t.Context(), func() bool { return len(g.owned) == 2 }); err != nil {
				t.Fatal(err)
			}
		}
		var runs []*stream.Run
		for _, g := range groups {
			runs = append(runs, job(g, often, answer).Start(t.Context()))
		}
		admin, done := b.admin()
		defer done()
		last := map[int32]int64{}
		for i := range 400 {
			b.fill("in", 4, 100+i, 101+i)
			time.Sleep(20 * time.Millisecond)
			at, err := admin.FetchOffsets(t.Context(), "g")
			if err != nil {
				t.Fatal(err)
			}
			at.Each(func(o kadm.OffsetResponse) {
				if o.At < last[o.Partition] {
					t.Fatalf("partition %d: from %d back to %d", o.Partition, last[o.Partition], o.At)
				}
				last[o.Partition] = o.At
			})
		}
		for _, r := range runs {
			r.Stop()
			r.Wait()
		}
		if len(last) != 4 || last[0] < 400 {
			t.Errorf("the group is at %v", last)
		}
	})
}

// A partition whose offset this process knew, and that no longer has an offset, is not begun again.
func TestGroupOffsetThatVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "in", "out")
		b.fill("in", 1, 0, 100)
		g := NewGroup(b.group("g"))
		defer g.Close()
		var gone atomic.Bool
		b.fake.ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
			b.fake.KeepControl()
			r := req.(*kmsg.OffsetFetchRequest)
			if !gone.Load() || len(r.Groups) != 1 {
				return nil, nil, false
			}
			resp := r.ResponseKind().(*kmsg.OffsetFetchResponse)
			group := kmsg.NewOffsetFetchResponseGroup()
			group.Group = r.Groups[0].Group
			resp.Groups = append(resp.Groups, group)
			return resp, nil, true
		})
		flaky := func(ctx context.Context, v []byte) ([]byte, error) {
			if gone.Load() {
				return nil, errors.New("away")
			}
			return answer(ctx, v)
		}
		r := job(g, often, flaky).Start(t.Context())
		b.await(r, 100)
		gone.Store(true)
		b.fill("in", 1, 100, 110)
		if err := r.Wait(); err == nil || !strings.Contains(err.Error(), "was at offset 100 and has no offset any more") || !strings.Contains(err.Error(), "offsets.retention.minutes") {
			t.Errorf("it ended with %v", err)
		}
		if n := len(b.committed("out")[0]); n != 100 {
			t.Errorf("%d results", n)
		}
	})
}

// Notes return what was put into them, and other metadata is ignored.
func TestNotes(t *testing.T) {
	for _, topics := range []Topics{{Names: []string{"b", "a"}}, {Pattern: "a of=b topic=c|d"}, {Pattern: strings.Repeat("x", 300)}} {
		g := NewGroup(GroupConfig{Topics: topics})
		g.ids = map[string]topicID{"a": "Zm9v/+=="}
		g.firsts = map[partition]int64{{"a", 0}: 7}
		for p, at := range map[partition]int64{{"a", 0}: 7, {"a", 1}: 7, {"a", 2}: 0} {
			mark, id, selection, first := parseNote(g.note("tensorferry my run 12", p, at))
			if mark != "tensorferry my run 12" || id != "Zm9v/+==" || selection != topics.selection() || len(selection) > longestSelection || first != (p.ID == 0) {
				t.Errorf("%q, %q, %q, %v", mark, id, selection, first)
			}
		}
		if _, _, _, first := parseNote(g.note("tensorferry my run 12", partition{"a", 0}, 8)); first {
			t.Error("a position behind the first one passes for it")
		}
	}
	for _, c := range []struct {
		selection, topic string
		want             bool
	}{
		{"topics:a,b", "a", true}, {"topics:a,b", "a,b", false}, {"topics:a,b", "c", false},
		{"pattern:a.*", "ab", true}, {"pattern:a.*", "ba", false}, {"pattern:.*", "__hidden", false}, {"pattern:(", "(", false},
		{"", "a", false}, {"sha256:00", "00", false},
	} {
		if got := selects(c.selection, c.topic); got != c.want {
			t.Errorf("%q selects %q: %v", c.selection, c.topic, got)
		}
	}
	if mark, id, selection, first := parseNote("tensorferry 0123 7"); mark != "tensorferry 0123 7" || id != "" || selection != "" || first {
		t.Errorf("a note of an earlier version: %q, %q, %q, %v", mark, id, selection, first)
	}
}
