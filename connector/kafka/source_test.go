package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/restart"
)

func (b *broker) source(t Topics) *Source[[]byte] {
	return NewSource(SourceConfig[[]byte]{Config: b.config(), Topics: t, Discover: 200 * time.Millisecond, Decode: Raw[[]byte]})
}

// published counts the results of each partition in a folder, and checks their order.
func published(t *testing.T, dir string) map[string]int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "part-*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	first := map[string]int{"2": 1000}
	count := map[string]int{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			p, _, _ := strings.Cut(line, "/")
			if want := fmt.Sprintf("%s/%d!\n", p, first[p]+count[p]); line != want {
				t.Fatalf("%q where %q should be", line, want)
			}
			count[p]++
		}
	}
	return count
}

// Offsets are in the checkpoints: a job that fails reads again from there, and one that is stopped
// and resumed goes on. Partitions that appear while it runs are read from their first record.
func TestSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 2, "in")
		b.fill("in", 2, 0, 1000)
		store := stream.NewMemoryStore()
		dir := t.TempDir()
		start := func(cfg stream.Config) *stream.Run {
			cfg.Parallelism, cfg.Checkpoint = 2, stream.CheckpointConfig{Interval: 5 * time.Millisecond, Store: store}
			cfg.Restart = restart.Config{Strategy: restart.FixedDelay, Attempts: 100, Delay: 10 * time.Millisecond}
			j := stream.New("j", cfg)
			var n atomic.Int64
			flaky := func(ctx context.Context, v []byte) ([]byte, error) {
				if n.Add(1)%900 == 0 {
					return nil, flaky{}
				}
				return answer(ctx, v)
			}
			answers := stream.OrderedWait(stream.From(j, b.source(Topics{Names: []string{"in"}})), async.Func(flaky, 64), ordered)
			lines := stream.Map(answers, func(v []byte) (json.RawMessage, error) { return v, nil })
			stream.To(lines, file.NewSink(file.SinkConfig[json.RawMessage]{Encode: file.RawLine, Dir: dir}))
			return j.Start(t.Context())
		}
		run := start(stream.Config{})
		b.await(run, 2000)
		cl := b.client()
		if _, err := kadm.NewClient(cl).CreatePartitions(t.Context(), 1, "in"); err != nil {
			t.Fatal(err)
		}
		cl.Close()
		b.fill("in", 3, 1000, 1500)
		b.await(run, 3500)
		run.Stop()
		if err := run.Wait(); err != stream.ErrStopped {
			t.Fatal(err)
		}
		if p := run.Progress(); p.Restarts < 2 {
			t.Errorf("%d restarts", p.Restarts)
		}
		if got := published(t, dir); got["0"] != 1500 || got["1"] != 1500 || got["2"] != 500 {
			t.Errorf("records by partition: %v", got)
		}
		snap, err := store.Newest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.fill("in", 3, 1500, 1600)
		run = start(stream.Config{Resume: snap})
		b.await(run, 3800)
		run.Stop()
		run.Wait()
		if got := published(t, dir); got["0"] != 1600 || got["1"] != 1600 || got["2"] != 600 {
			t.Errorf("records by partition, after the resumed run: %v", got)
		}
	})
}

// Where partitions begin that have not been read.
func TestSourceStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 2, "in", "in2", "other")
		b.fill("in", 2, 0, 100) // the time of record i is i ms
		for _, c := range []struct {
			topics Topics
			next   []int64
		}{
			{Topics{Names: []string{"in"}}, []int64{0, 0}},
			{Topics{Names: []string{"in"}, Start: Latest}, []int64{100, 100}},
			{Topics{Names: []string{"in"}, Start: From(time.UnixMilli(40))}, []int64{40, 40}},
			{Topics{Pattern: "in.*"}, []int64{0, 0, 0, 0}},
		} {
			splits, err := b.source(c.topics).Splits(t.Context())
			var next []int64
			for _, s := range splits {
				next = append(next, s.Start)
			}
			if err != nil || len(next) != len(c.next) || next[0] != c.next[0] || next[len(next)-1] != c.next[len(next)-1] {
				t.Errorf("%+v: %v, %v; want %v", c.topics, next, err, c.next)
			}
		}
		for _, c := range []struct {
			topics Topics
			says   string
		}{
			{Topics{Names: []string{"nosuch"}}, `no topic "nosuch"`},
			{Topics{Pattern: "nosuch"}, "matches no topic"},
			{Topics{}, "either names of topics or a pattern"},
			{Topics{Pattern: "("}, "the pattern of topics"},
		} {
			if _, err := b.source(c.topics).Splits(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v: %v, want %q", c.topics, err, c.says)
			}
		}
	})
}

// Records that are gone before they were read are a loss, which must be reported.
func TestSourceLosesNothingSilently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "in")
		b.fill("in", 1, 0, 100)
		s := b.source(Topics{Names: []string{"in"}})
		splits, err := s.Splits(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), splits, []int64{100}); err != nil {
			t.Errorf("at its end: %v", err)
		}
		// A split of an earlier version has no id of its topic, and gets one. It does not
		// say that it begins at the first record.
		want := strings.Replace(string(splits[0].Data), `,"first":true`, "", 1)
		old := []connector.Split{{Data: []byte(`{"topic":"in","partition":0}`)}}
		if now, next, err := s.Assign(t.Context(), old, []int64{7}); err != nil || string(now[0].Data) != want || next[0] != 7 {
			t.Errorf("a split of an earlier version: %v, %v, %v", now, next, err)
		}
		// As after an unclean election.
		beyond := func(err error) {
			t.Helper()
			lost, ok := errors.AsType[*lostError](err)
			if !ok || lost.extent != (extent{0, 100}) || !strings.Contains(err.Error(), "in, partition 0: it ends at offset 100 and was read up to 101; the first record is now at offset 0") {
				t.Errorf("behind its end: %v", err)
			}
		}
		beyond(s.Verify(t.Context(), splits, []int64{101}))
		far, err := s.OpenAll(t.Context(), []connector.AssignedSplit{{Split: splits[0], Position: 101}})
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		_, _, _, err = far.Read(t.Context(), nil, 10)
		beyond(err)
		// The client notices by itself what was cut while it reads.
		cut := &kgo.ErrDataLoss{Topic: "in", ConsumedTo: 80, ResetTo: 60}
		open := func(how OnExpired) *reader[[]byte] {
			s := b.source(Topics{Names: []string{"in"}, OnExpired: how})
			r, err := s.OpenAll(t.Context(), []connector.AssignedSplit{{Split: splits[0], Position: 80}})
			if err != nil {
				t.Fatal(err)
			}
			return r.(*reader[[]byte])
		}
		r1, r2 := open(FailExpired), open(SkipExpired)
		defer r1.Close()
		defer func() { r2.Close() }()
		if err := r1.judge(t.Context(), partition{"in", 0}, cut); err == nil || !strings.Contains(err.Error(), "it ends at offset 60 and was read up to 80") {
			t.Errorf("cut while it is read: %v", err)
		}
		if err := r2.judge(t.Context(), partition{"in", 0}, cut); err != nil {
			t.Error(err)
		}
		if _, recs, _, err := r2.Read(t.Context(), nil, 10); err != nil || len(recs) == 0 || recs[0].Position != 60 {
			t.Errorf("it goes on with %v, %v; want offset 60", recs, err)
		}
		cl := b.client()
		defer cl.Close()
		offsets := kadm.Offsets{}
		offsets.Add(kadm.Offset{Topic: "in", Partition: 0, At: 50})
		if _, err := kadm.NewClient(cl).DeleteRecords(t.Context(), offsets); err != nil {
			t.Fatal(err)
		}
		err = s.Verify(t.Context(), splits, []int64{20})
		if _, ok := errors.AsType[*lostError](err); !ok || !strings.Contains(err.Error(), "from offset 20 on were not read yet and are gone; the first record is now at offset 50") {
			t.Errorf("before its beginning: %v", err)
		}
		r, err := s.OpenAll(t.Context(), []connector.AssignedSplit{{Split: splits[0], Position: 20}})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_, _, _, err = r.Read(t.Context(), nil, 10)
		if _, ok := errors.AsType[*lostError](err); !ok || async.VerdictOf(err).Class != async.Permanent {
			t.Errorf("reading: %v", err)
		}
	})
}

// The sink of jobs that do not come from Kafka: a checkpoint waits for the brokers, and a refusal
// is an error that names the record.
func TestSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 2, "out")
		var values [][]byte
		for i := range 500 {
			values = append(values, []byte("v"+strings.Repeat("x", i)))
		}
		run := func(s *Sink[[]byte]) error {
			j := stream.New("j", stream.Config{Parallelism: 2})
			stream.To(stream.From(j, stream.FromSlice(values)), s)
			return j.Run(t.Context())
		}
		encode := func(r *async.Record[[]byte]) (*Record, error) { return &Record{Value: r.Value}, nil }
		if err := run(NewSink(SinkConfig[[]byte]{Config: b.config(), Topic: "out", Encode: encode})); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, vs := range b.committed("out") {
			n += len(vs)
		}
		if n != len(values) {
			t.Errorf("%d of %d values", n, len(values))
		}
		err := run(NewSink(SinkConfig[[]byte]{Config: b.config(), Topic: "out", Encode: func(*async.Record[[]byte]) (*Record, error) {
			return nil, errors.New("not this one")
		}}))
		if err == nil || !strings.Contains(err.Error(), "position") || !strings.Contains(err.Error(), "not this one") {
			t.Errorf("an encoder that fails: %v", err)
		}
		b.fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			b.fake.KeepControl()
			resp := req.ResponseKind().(*kmsg.ProduceResponse)
			for _, qt := range req.(*kmsg.ProduceRequest).Topics {
				rt := kmsg.NewProduceResponseTopic()
				rt.Topic, rt.TopicID = qt.Topic, qt.TopicID
				for _, qp := range qt.Partitions {
					rp := kmsg.NewProduceResponseTopicPartition()
					rp.Partition, rp.ErrorCode = qp.Partition, kerr.MessageTooLarge.Code
					rt.Partitions = append(rt.Partitions, rp)
				}
				resp.Topics = append(resp.Topics, rt)
			}
			return resp, nil, true
		})
		err = run(NewSink(SinkConfig[[]byte]{Config: b.config(), Topic: "out", Encode: encode}))
		if err == nil || !strings.Contains(err.Error(), "cannot be written: topic out") || async.VerdictOf(err).Class != async.BadRecord {
			t.Errorf("a broker that refuses: %v", err)
		}
	})
}

// A message that franz-go logs many times a second is passed on only now and then.
func TestLogger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		l := &logger{log: slog.New(slog.NewTextHandler(&text, nil))}
		for range 250 {
			l.Log(kgo.LogLevelWarn, "away", "n", 1)
			l.Log(kgo.LogLevelError, "gone")
			time.Sleep(100 * time.Millisecond)
		}
		if n := strings.Count(text.String(), "away"); n != 3 || strings.Count(text.String(), "more_like_this_before=99") != 4 {
			t.Errorf("said %d times:\n%s", n, text.String())
		}
	})
}

// At the end of each transaction a log has an entry that is not a record. The position after the
// last record is also behind such entries: nothing is left to read, and nothing is lost when they
// are deleted.
func TestPositionsBehindTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "in", "out")
		cl := b.client(kgo.TransactionalID("x"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		defer cl.Close()
		n := 0
		for _, how := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit, kgo.TryAbort} {
			if err := cl.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			for i := range 10 {
				cl.Produce(t.Context(), &Record{Topic: "in", Value: fmt.Appendf(nil, "0/%d", n+i)}, nil)
			}
			if how == kgo.TryCommit {
				n += 10
			}
			if err := errors.Join(cl.Flush(t.Context()), cl.EndTransaction(t.Context(), how)); err != nil {
				t.Fatal(err)
			}
		}
		const end = 44 // 40 records and 4 ends
		admin := kadm.NewClient(cl)
		for range 2 {
			g := NewGroup(b.group("g"))
			run := job(g, stream.Config{Checkpoint: stream.CheckpointConfig{Interval: 100 * time.Millisecond}}, answer).Start(t.Context())
			time.Sleep(20 * time.Second)
			if lag, known := g.lags.total(); lag != 0 {
				t.Errorf("a lag of %d (%v) when everything is read", lag, known)
			}
			run.Stop()
			if err := run.Wait(); err != stream.ErrStopped {
				t.Fatal(err)
			}
			g.Close()
			at, err := admin.FetchOffsets(t.Context(), "g")
			if o, _ := at.Lookup("in", 0); err != nil || o.At != end {
				t.Fatalf("the group is at %d (%v), want %d", o.At, err, end)
			}
			gone := kadm.Offsets{}
			gone.Add(kadm.Offset{Topic: "in", Partition: 0, At: end})
			if _, err := admin.DeleteRecords(t.Context(), gone); err != nil {
				t.Fatal(err)
			}
		}
		b.check(b.committed("out"), 1, n, true)
	})
}

// stopper ends a read at the moment in which the client hands records out.
type stopper struct{ stop func() }

func (s *stopper) OnFetchRecordUnbuffered(*Record, bool) {
	if s.stop != nil {
		s.stop()
	}
}

// A reader may be used after a read that ended. Records that came just then are not lost: the
// client hands them out once.
func TestReadThatEndsKeepsRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "in")
		b.fill("in", 1, 0, 100)
		hook := &stopper{}
		cfg := SourceConfig[[]byte]{Config: b.config(), Topics: Topics{Names: []string{"in"}}, Decode: Raw[[]byte]}
		cfg.Options = append(cfg.Options, kgo.WithHooks(hook))
		src := NewSource(cfg)
		splits, err := src.Splits(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r, err := src.OpenAll(t.Context(), []connector.AssignedSplit{{Split: splits[0]}})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var at int64
		for began := time.Now(); at < 100; {
			if time.Since(began) > time.Minute {
				t.Fatalf("the records from offset %d on do not come", at)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			hook.stop = cancel
			_, recs, next, err := r.Read(ctx, nil, 3)
			cancel()
			if err != nil {
				if ctx.Err() == nil || err != ctx.Err() {
					t.Fatal(err)
				}
				continue
			}
			for _, rec := range recs {
				if rec.Position != at {
					t.Fatalf("offset %d comes where %d should", rec.Position, at)
				}
				at++
			}
			if next != at {
				t.Fatalf("it stands at %d behind offset %d", next, at-1)
			}
		}
	})
}
