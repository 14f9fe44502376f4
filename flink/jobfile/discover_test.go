package jobfile

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/kafka"
)

func (b *broker) discover(topics string) *discoverFn {
	b.Helper()
	fn := &discoverFn{Job: textOf(b.T, b.reading(topics))}
	if err := fn.Setup(); err != nil {
		b.Fatal(err)
	}
	return fn
}

// look looks once, and returns what was found, and what the rest of the search knows.
func (b *broker) look(fn *discoverFn, r found) (string, found) {
	b.Helper()
	rt := fn.CreateTracker(r)
	var got []string
	again, err := fn.ProcessElement(b.Context(), rt, nil, func(s split) { got = append(got, place(b, s)) })
	if err != nil {
		b.Fatal(err)
	}
	if !again.ShouldResume() || again.ResumeDelay() != fn.every || rt.IsBounded() {
		b.Errorf("it goes on: %v, in %v", again.ShouldResume(), again.ResumeDelay())
	}
	primary, residual, err := rt.TrySplit(0)
	if err != nil || !primary.(found).Over || !rt.IsDone() {
		b.Fatalf("%v is over: %v", primary, err)
	}
	// It travels.
	text, err := encodeFound(residual.(found))
	if err != nil {
		b.Fatal(err)
	}
	rest, err := decodeFound(text)
	if err != nil || !reflect.DeepEqual(rest, residual) || rest.Over {
		b.Errorf("%+v comes as %+v: %v", residual, rest, err)
	}
	return strings.Join(got, " "), rest
}

func place(b *broker, s split) string {
	topic, id, err := kafka.PartitionOf(connector.Split{Data: s.Data})
	if err != nil {
		b.Fatal(err)
	}
	return fmt.Sprintf("%d.%d=%s/%d@%d", s.Index>>topicShift, s.Index&(1<<topicShift-1), topic, id, s.Start)
}

func (b *broker) more(topic string, partitions int) {
	b.Helper()
	resp, err := kadm.NewClient(b.client()).UpdatePartitions(b.Context(), partitions, topic)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		b.Fatal(err)
	}
}

func TestDiscover(t *testing.T) {
	b := newBroker(t, 2, "in")
	b.fill("in", 0, "a", "b")
	fn := b.discover("topic: in, start: latest, discover: 3s")
	if fn.every != 3*time.Second {
		t.Errorf("it looks every %v", fn.every)
	}
	r := fn.CreateInitialRestriction(nil)
	if cut := fn.SplitRestriction(nil, r); len(cut) != 1 || !reflect.DeepEqual(cut[0], r) || fn.RestrictionSize(nil, r) != 1 {
		t.Errorf("it is cut into %v", cut)
	}
	got, r := b.look(fn, r)
	if got != "0.0=in/0@2 0.1=in/1@0" {
		t.Errorf("found %s", got)
	}
	// Those that are known stay as they are.
	b.fill("in", 0, "c")
	if got, r = b.look(fn, r); got != "" || len(r.Splits) != 2 || place(b, r.Splits[0]) != "0.0=in/0@2" {
		t.Errorf("found %s, and %v is known", got, r)
	}
	// What comes later is read from its first record, whatever start says.
	b.more("in", 3)
	b.fill("in", 2, "x", "y")
	if got, r = b.look(fn, r); got != "0.2=in/2@0" || len(r.Splits) != 3 {
		t.Errorf("found %s, and %v is known", got, r)
	}
	rt := fn.CreateTracker(r)
	if cut := fn.TruncateRestriction(rt, nil); !cut.Over || len(cut.Splits) != 3 {
		t.Errorf("of a job that is drained %v is left", cut)
	}
	if b.discover("topic: in").every != kafka.DefaultDiscover {
		t.Error("it does not look when it should")
	}
}

// Where a job begins does not depend on how often it starts before its first checkpoint.
func TestDiscoverFromTheFirstPositions(t *testing.T) {
	for _, start := range []string{"latest", "2024-01-01T00:00:00Z"} { // behind all records
		t.Run(start, func(t *testing.T) {
			b := newBroker(t, 2, "in")
			b.fill("in", 0, "a", "b")
			spec := b.reading("topic: in, start: '" + start + "'")
			fn := discovering(t, build(t, spec, false))
			if err := fn.Setup(); err != nil {
				t.Fatal(err)
			}
			b.fill("in", 0, "c")
			b.more("in", 3)
			b.fill("in", 2, "x")
			for attempt := range 2 {
				got, r := b.look(fn, fn.CreateInitialRestriction(nil))
				if got != "0.0=in/0@2 0.1=in/1@0" {
					t.Errorf("attempt %d begins with %s", attempt, got)
				}
				// What came later is read from its first record.
				if got, r = b.look(fn, r); got != "0.2=in/2@0" || len(r.Splits) != 3 {
					t.Errorf("found %s, and %v is known", got, r)
				}
				b.fill("in", 0, "d")
			}
		})
	}
}

// discovering is the transform of a pipeline that looks for partitions, as it arrives at a worker.
func discovering(t *testing.T, p *beam.Pipeline) *discoverFn {
	t.Helper()
	edges, _, err := p.Build()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edges {
		if e.DoFn == nil {
			continue
		}
		if fn, ok := e.DoFn.Recv.(*discoverFn); ok {
			text, err := json.Marshal(fn)
			arrived := &discoverFn{}
			if err == nil {
				err = json.Unmarshal(text, arrived)
			}
			if err != nil {
				t.Fatal(err)
			}
			return arrived
		}
	}
	t.Fatal("nothing looks for partitions")
	return nil
}

// Who submits a job need not know the way to its brokers.
func TestDiscoverIsLeftToTheWorkers(t *testing.T) {
	b := newBroker(t, 1, "in")
	for _, topics := range []string{"topic: in", "topic: in, start: earliest", "topic: in, start: latest, tls: {ca: absent.pem}"} {
		if fn := discovering(t, build(t, b.reading(topics), false)); len(fn.First) > 0 {
			t.Errorf("%s: %v came with the job", topics, fn.First)
		}
	}
}

// With several topics the numbers of splits say which, and stay when others come.
func TestDiscoverTopics(t *testing.T) {
	b := newBroker(t, 2, "in-c", "in-e")
	fn := b.discover("pattern: 'in-.*'")
	got, r := b.look(fn, found{})
	if got != "0.0=in-c/0@0 0.1=in-c/1@0 1.0=in-e/0@0 1.1=in-e/1@0" {
		t.Errorf("found %s", got)
	}
	for _, topic := range []string{"in-a", "in-d", "other"} {
		if err := b.fake.CreateTopic(topic, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	b.more("in-c", 3)
	if got, r = b.look(fn, r); got != "2.0=in-a/0@0 0.2=in-c/2@0 3.0=in-d/0@0" || len(r.Splits) != 7 {
		t.Errorf("found %s, and %v is known", got, r)
	}
}

func TestDiscoverErrors(t *testing.T) {
	b := newBroker(t, 1, "in")
	if err := (&discoverFn{Job: "{"}).Setup(); err == nil {
		t.Error("half a job is one")
	}
	fn := b.discover("topic: absent")
	_, err := fn.ProcessElement(t.Context(), fn.CreateTracker(found{}), nil, func(split) { t.Error("found something") })
	wantError(t, err, `source: kafka: there is no topic "absent"`)
	// A search that fails later does not end the reading of what is known.
	known := found{Splits: []split{partitionOf("absent", 0)}}
	if got, rest := b.look(fn, known); got != "" || !reflect.DeepEqual(rest, known) {
		t.Errorf("found %s, and %v is known", got, rest)
	}
	fn = b.discover("topic: in")
	_, err = fn.ProcessElement(t.Context(), fn.CreateTracker(found{Over: true}), nil, func(split) { t.Error("found something") })
	wantError(t, err, "the runner has split the search for partitions")
	for _, of := range [][]split{{{Data: []byte("{")}}, {partitionOf("in", 0), {Data: []byte("{")}}} {
		if _, err := number(of[0], of[1:]); err == nil {
			t.Errorf("%v has a number", of)
		}
	}
	if _, err := decodeFound([]byte("{")); err == nil {
		t.Error("half of what was found is all of it")
	}
}

func TestSearch(t *testing.T) {
	one := []split{partitionOf("in", 0)}
	s := &search{now: found{Splits: one}}
	primary, residual, err := s.TrySplit(0.5)
	if !reflect.DeepEqual(primary, found{Splits: one}) || residual != nil || err != nil || s.IsDone() {
		t.Errorf("it is divided into %v and %v, %v", primary, residual, err)
	}
	if !s.TryClaim([]split{partitionOf("in", 1)}) || len(s.GetRestriction().(found).Splits) != 2 || len(one) != 1 {
		t.Errorf("it knows %v", s.now)
	}
	if done, left := s.GetProgress(); done != 2 || left <= 0 {
		t.Errorf("%v is done, and %v left", done, left)
	}
	primary, residual, err = s.TrySplit(0)
	if p := primary.(found); !p.Over || len(p.Splits) != 2 || err != nil || !s.IsDone() {
		t.Errorf("the part that is over is %v, %v", p, err)
	}
	if r := residual.(found); r.Over || len(r.Splits) != 2 {
		t.Errorf("the rest is %v", r)
	}
	// What is over has no rest, and takes nothing more.
	if _, residual, err := s.TrySplit(0); residual != nil || err != nil {
		t.Errorf("there is %v, %v", residual, err)
	}
	if s.TryClaim(one) || len(s.now.Splits) != 2 || s.GetError() != nil || s.IsBounded() {
		t.Errorf("it takes more: %v", s.now)
	}
}
