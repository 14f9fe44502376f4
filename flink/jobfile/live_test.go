package jobfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	stdnet "net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/flink/internal/idle"
	"github.com/tensorferry/tensorferry/job"
)

// reading is a job that reads topics of a broker.
func (b *broker) reading(topics string) *job.Spec {
	return load(b.T, strings.NewReplacer("h:1", b.address(), "topic: in", topics).Replace(fromKafka))
}

func (b *broker) live(topics string) *liveFn {
	b.Helper()
	fn := &liveFn{Job: textOf(b.T, b.reading(topics))}
	if err := fn.Setup(); err != nil {
		b.Fatal(err)
	}
	return fn
}

func partitionOf(topic string, id int32) split {
	return split{Index: int64(id), Data: fmt.Appendf(nil, `{"topic":%q,"partition":%d}`, topic, id)}
}

// slice reads one slice of a restriction, and returns what it read and what is left.
func (b *broker) slice(fn *liveFn, s split, r offsetrange.Restriction) (string, offsetrange.Restriction) {
	b.Helper()
	rt := fn.CreateTracker(r)
	var got []string
	again, err := fn.ProcessElement(b.Context(), rt, s, func(at beam.EventTime, r flink.Record) {
		got = append(got, fmt.Sprintf("%d/%d:%s=%s@%d", r.Split, r.Position, r.Key, r.Value, at))
	})
	if err != nil {
		b.Fatal(err)
	}
	if !again.ShouldResume() || again.ResumeDelay() != 0 {
		b.Errorf("it goes on: %v, in %v", again.ShouldResume(), again.ResumeDelay())
	}
	_, rest, err := rt.TrySplit(0)
	if err != nil {
		b.Fatal(err)
	}
	if !rt.IsDone() || rt.IsBounded() {
		b.Error("what was split off is not all that was left")
	}
	return strings.Join(got, " "), rest.(offsetrange.Restriction)
}

// until reads slices until there is something.
func (b *broker) until(fn *liveFn, s split, r offsetrange.Restriction) (got string, rest offsetrange.Restriction) {
	b.Helper()
	for got == "" {
		got, rest = b.slice(fn, s, r)
		if got == "" && rest != r {
			b.Fatalf("nothing was read, and %v is left of %v", rest, r)
		}
	}
	return got, rest
}

// lent is the reader that the next slice of a split would take.
func lent(t *testing.T, fn *liveFn, s split, at int64) *reader {
	t.Helper()
	r, err := fn.reader(t.Context(), s, at)
	if err != nil {
		t.Fatal(err)
	}
	readers.Give(r)
	return r
}

func closed(r *reader) bool {
	return r.Do(func() error { return nil }) == idle.ErrAbandoned
}

func TestLive(t *testing.T) {
	b := newBroker(t, 2, "in")
	b.fill("in", 1, "a", "b")
	fn, s := b.live("topic: in"), partitionOf("in", 1)
	all := fn.CreateInitialRestriction(s)
	if got := fn.SplitRestriction(s, all); len(got) != 1 || got[0] != all || fn.RestrictionSize(s, all) != 1 {
		t.Errorf("it is cut into %v", got)
	}
	got, rest := b.until(fn, s, all)
	if got != "1/0:ka=a@1700000000000 1/1:kb=b@1700000000000" || rest != (offsetrange.Restriction{Start: 2, End: end}) {
		t.Errorf("read %s, and %v is left", got, rest)
	}
	// A partition with nothing new gives way, and its reader stays.
	r := lent(t, fn, s, 2)
	if got, same := b.slice(fn, s, rest); got != "" || same != rest {
		t.Errorf("read %s, and %v is left", got, same)
	}
	b.fill("in", 1, "c")
	if got, rest = b.until(fn, s, rest); got != "1/2:kc=c@1700000000000" || rest.Start != 3 {
		t.Errorf("read %s, and %v is left", got, rest)
	}
	if lent(t, fn, s, 3) != r || closed(r) {
		t.Error("the reader was not used again")
	}
	// An attempt that read on leaves a reader behind the place of the next one.
	if got, rest = b.until(fn, s, offsetrange.Restriction{Start: 1, End: end}); !strings.HasPrefix(got, "1/1:kb=b") {
		t.Errorf("read %s, and %v is left", got, rest)
	}
	if !closed(r) {
		t.Error("the old reader is open")
	}
	r = lent(t, fn, s, 3)
	closeIdle()
	if !closed(r) {
		t.Error("a reader that nobody uses is open")
	}
	if cut := fn.TruncateRestriction(fn.CreateTracker(rest), s); cut.Start != cut.End || cut.Start != rest.Start {
		t.Errorf("of a job that is drained %v is left", cut)
	}
}

// More than one slice's worth: what comes is all of it, in order.
func TestLiveGoesOn(t *testing.T) {
	b := newBroker(t, 1, "in")
	const n = 500
	var values, got []string
	for i := range n {
		values = append(values, fmt.Sprint(i))
	}
	fn, s := b.live("topic: in"), partitionOf("in", 0)
	rest := fn.CreateInitialRestriction(s)
	written := make(chan struct{})
	go func() {
		defer close(written)
		b.fill("in", 0, values...)
	}()
	for rest.Start < n {
		var some string
		some, rest = b.until(fn, s, rest)
		got = append(got, strings.Fields(some)...)
	}
	<-written
	for i, text := range got {
		if want := fmt.Sprintf("0/%d:k%d=%d@1700000000000", i, i, i); text != want {
			t.Fatalf("%s where %s should be", text, want)
		}
	}
	if len(got) != n {
		t.Errorf("%d records", len(got))
	}
}

// A position whose records are gone ends the job, or reading goes on behind them, if it is told to.
// It does not go back.
func TestLiveExpired(t *testing.T) {
	b := newBroker(t, 1, "in")
	b.fill("in", 0, "a", "b", "c", "d")
	admin := kadm.NewClient(b.client())
	gone := kadm.Offsets{}
	gone.Add(kadm.Offset{Topic: "in", Partition: 0, At: 3})
	if _, err := admin.DeleteRecords(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	read := func(fn *liveFn, s split, at int64) error {
		for {
			_, err := fn.ProcessElement(t.Context(), fn.CreateTracker(offsetrange.Restriction{Start: at, End: end}), s, func(beam.EventTime, flink.Record) {})
			if err != nil {
				return err
			}
		}
	}
	strict, skips := b.live("topic: in"), b.live("topic: in, on_expired: earliest")
	s := partitionOf("in", 0)
	wantError(t, read(strict, s, 1), "in, partition 0: the records from offset 1 on were not read yet and are gone; the first record is now at offset 3, and the partition ends at 4")
	if got, rest := b.until(skips, s, offsetrange.Restriction{Start: 1, End: end}); got != "0/3:kd=d@1700000000000" || rest.Start != 4 {
		t.Errorf("read %s, and %v is left", got, rest)
	}
	// As of a topic that was made anew, or cut by brokers.
	wantError(t, read(skips, s, 9), "on Flink a partition cannot be read again from its beginning")
	named, err := skips.src.Splits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteTopics(t.Context(), "in"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CreateTopic(t.Context(), 1, 1, nil, "in"); err != nil {
		t.Fatal(err)
	}
	b.fill("in", 0, "e", "f", "g", "h", "i")
	s.Data = named[0].Data
	wantError(t, read(b.live("topic: in"), s, 4), "the topic was deleted and made anew")
}

func TestLiveErrors(t *testing.T) {
	b := newBroker(t, 1, "in")
	b.fill("in", 0, "a")
	if err := (&liveFn{Job: "{"}).Setup(); err == nil {
		t.Error("half a job is one")
	}
	fn := b.live("topic: in")
	read := func(s split, rt *sdf.LockRTracker) error {
		_, err := fn.ProcessElement(t.Context(), rt, s, func(beam.EventTime, flink.Record) {})
		return err
	}
	wantError(t, read(split{Data: []byte("{")}, fn.CreateTracker(offsetrange.Restriction{End: end})), "source: kafka: the split's description is damaged")

	// An offset that is not there.
	s := partitionOf("in", 0)
	err := error(nil)
	for err == nil {
		err = read(s, fn.CreateTracker(offsetrange.Restriction{Start: 99, End: end}))
	}
	wantError(t, err, "source: kafka: in, partition 0: it ends at offset 1 and was read up to 99")

	// A runner that takes a part away breaks its word, and its reader is not used again.
	r := lent(t, fn, s, 0)
	for err = nil; err == nil; {
		err = read(s, fn.CreateTracker(offsetrange.Restriction{Start: 0, End: 0}))
	}
	wantError(t, err, "the runner has split a partition")
	if !closed(r) {
		t.Error("its reader is open")
	}

	// A reader that was closed under a bundle.
	r = lent(t, fn, s, 0)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := read(s, fn.CreateTracker(offsetrange.Restriction{End: end})); !errors.Is(err, idle.ErrAbandoned) {
		t.Errorf("the error is %v", err)
	}
}

// The client asks for long before it takes a topic for gone, so time is virtual here.
func TestLiveTopicIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net kfake.VirtualNetwork
		fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(net.Listen), kfake.SeedTopics(1, "gone"))
		if err != nil {
			t.Fatal(err)
		}
		defer fake.Close()
		src := kafka.NewSource(kafka.SourceConfig[json.RawMessage]{
			Config: kafka.Config{Brokers: fake.ListenAddrs(), Options: []kgo.Opt{kgo.Dialer(net.DialContext)}},
			Topics: kafka.Topics{Names: []string{"gone"}}, Decode: kafka.Raw[json.RawMessage],
		})
		s := partitionOf("gone", 0)
		live, err := src.OpenAll(t.Context(), []connector.AssignedSplit{{Split: connector.Split{Data: s.Data}}})
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{r: live}
		read := func() error {
			rt := (&liveFn{}).CreateTracker(offsetrange.Restriction{End: end})
			return r.slice(t.Context(), 0, rt, func(beam.EventTime, flink.Record) { t.Error("a record of an empty topic") })
		}
		began := time.Now()
		for _, d := range []time.Duration{slice, lull, lull} { // a new reader must connect first
			before := time.Now()
			if err := read(); err != nil || time.Since(before) != d {
				t.Errorf("an idle partition: %v after %v", err, time.Since(before))
			}
		}
		if err := fake.DeleteTopic("gone"); err != nil {
			t.Fatal(err)
		}
		for err = nil; err == nil; {
			err = read()
		}
		wantError(t, err, "gone, partition 0")
		if d := time.Since(began); d > time.Minute {
			t.Errorf("it took %v", d)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// With many partitions a turn comes so seldom that the reader has been closed since. Its brokers
// take longer than a lull to be reached.
func TestLiveEveryTurnHasANewReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net kfake.VirtualNetwork
		fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(net.Listen), kfake.SeedTopics(1, "in"))
		if err != nil {
			t.Fatal(err)
		}
		defer fake.Close()
		cl, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...), kgo.Dialer(net.DialContext), kgo.DefaultProduceTopic("in"))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		const n = 3
		for i := range n {
			if err := cl.ProduceSync(t.Context(), kgo.StringRecord(fmt.Sprint(i))).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		src := kafka.NewSource(kafka.SourceConfig[json.RawMessage]{
			Config: kafka.Config{Brokers: fake.ListenAddrs(), Options: []kgo.Opt{kgo.Dialer(func(ctx context.Context, network, host string) (stdnet.Conn, error) {
				time.Sleep(2 * lull)
				return net.DialContext(ctx, network, host)
			})}},
			Topics: kafka.Topics{Names: []string{"in"}}, Decode: kafka.Raw[json.RawMessage],
		})
		var got []string
		for turn := range int64(n) {
			s := connector.AssignedSplit{Split: connector.Split{Data: partitionOf("in", 0).Data}, Position: turn}
			live, err := src.OpenAll(t.Context(), []connector.AssignedSplit{s})
			if err != nil {
				t.Fatal(err)
			}
			r := &reader{r: live, next: turn}
			rt := (&liveFn{}).CreateTracker(offsetrange.Restriction{Start: turn, End: end})
			err = r.slice(t.Context(), 0, rt, func(_ beam.EventTime, rec flink.Record) { got = append(got, string(rec.Value)) })
			if err := errors.Join(err, r.Close()); err != nil {
				t.Fatal(err)
			}
		}
		if strings.Join(got, " ") != "0 1 2 1 2 2" {
			t.Errorf("read %q", got)
		}
	})
}

func TestTracker(t *testing.T) {
	at := func(start int64) *tracker {
		return &tracker{offsetrange.NewTracker(offsetrange.Restriction{Start: start, End: end})}
	}
	// Nothing but what is left goes.
	for _, fraction := range []float64{0.1, 0.5, 1} {
		tr := at(5)
		primary, residual, err := tr.TrySplit(fraction)
		if primary != (offsetrange.Restriction{Start: 5, End: end}) || residual != nil || err != nil {
			t.Errorf("at %v: %v and %v, %v", fraction, primary, residual, err)
		}
	}
	// From the first offset to the last that there can be.
	for _, c := range []struct{ start, claim, rest int64 }{
		{0, 0, 1}, {7, 99, 100}, {end - 3, end - 2, end - 1},
	} {
		tr := at(c.start)
		if !tr.TryClaim(c.claim) {
			t.Fatalf("%+v: %v", c, tr.GetError())
		}
		primary, residual, err := tr.TrySplit(0)
		if primary != (offsetrange.Restriction{Start: c.start, End: c.rest}) || residual != (offsetrange.Restriction{Start: c.rest, End: end}) || err != nil || !tr.IsDone() {
			t.Errorf("%+v: %v and %v, %v", c, primary, residual, err)
		}
	}
	for _, start := range []int64{0, 1, end - 1} {
		tr := at(start) // nothing was read
		primary, residual, err := tr.TrySplit(0)
		if primary != (offsetrange.Restriction{Start: start, End: start}) || residual != (offsetrange.Restriction{Start: start, End: end}) || err != nil || !tr.IsDone() {
			t.Errorf("%d: %v and %v, %v", start, primary, residual, err)
		}
	}
	tr := at(end - 1)
	if !tr.TryClaim(int64(end-1)) || !tr.IsDone() {
		t.Error("the last offset cannot be claimed")
	}
	done, left := tr.GetProgress()
	if done != 1 || left != 0 || math.Signbit(left) {
		t.Errorf("%v is done and %v left", done, left)
	}
	if at(math.MaxInt64 - 2).IsBounded() {
		t.Error("it has an end")
	}
}
