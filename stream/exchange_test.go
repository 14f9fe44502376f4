package stream

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// recorder is the end of a chain that writes down what arrives.
type recorder struct {
	idle
	env   *taskEnv
	log   []string
	space int
}

func (r *recorder) room() int { return r.space }

func (r *recorder) records(recs []Record[int]) error {
	for _, rec := range recs {
		r.log = append(r.log, fmt.Sprint(rec.Value))
	}
	r.space -= len(recs)
	return nil
}

func (r *recorder) watermark(w async.Watermark) error {
	switch {
	case w.Idle:
		r.log = append(r.log, "idle")
	case w.Time == async.NoTime:
		r.log = append(r.log, "active")
	case w.Time == async.EndOfTime:
		r.log = append(r.log, "W(end)")
	default:
		r.log = append(r.log, fmt.Sprintf("W(%d)", w.Time))
	}
	return nil
}

func (r *recorder) barrier(b *barrier) error {
	r.log = append(r.log, fmt.Sprintf("B%d", b.id))
	return nil
}

func (r *recorder) end() error {
	r.log = append(r.log, "end")
	return nil
}

// inletRig is an inlet with hand-fed senders.
type inletRig struct {
	t   *testing.T
	in  *inlet[int]
	rec *recorder
	to  []*link[int]
}

func newInletRig(t *testing.T, senders int) *inletRig {
	env := &taskEnv{wake: func() {}, parallelism: 1}
	newTask(env)
	links := edge[int]{}.links(senders, 1)
	rec := &recorder{space: 1 << 20}
	r := &inletRig{t: t, rec: rec, in: edge[int]{}.inlet(env, "op", links, 0, input[int](rec)).(*inlet[int])}
	r.in.told = 100 // so that barriers pass when they come
	for _, l := range links.([][]*link[int]) {
		l[0].taken = func() {}
		r.to = append(r.to, l[0])
	}
	return r
}

// send gives a sender's element: numbers, then perhaps a mark: "1 2 B1", "3 W5", "idle", "end".
func (r *inletRig) send(sender int, what string) {
	var e element[int]
	for _, w := range strings.Fields(what) {
		var n int
		switch {
		case w == "end":
			e.mark = markEnd
		case w == "idle":
			e.mark, e.watermark = markWatermark, async.Watermark{Idle: true}
		case w[0] == 'B':
			fmt.Sscan(w[1:], &n)
			e.mark, e.barrier = markBarrier, int64(n)
		case w[0] == 'W':
			fmt.Sscan(w[1:], &n)
			e.mark, e.watermark = markWatermark, async.Watermark{Time: EventTime(n)}
		default:
			fmt.Sscan(w, &n)
			e.recs = append(e.recs, Record[int]{Value: n})
		}
	}
	if !r.to[sender].offer(e) {
		r.t.Fatalf("the port of sender %d is full", sender)
	}
}

// arrives lets everything in and compares what arrived.
func (r *inletRig) arrives(want string) {
	r.t.Helper()
	for {
		moved, err := r.in.pull(time.Time{})
		if err != nil {
			r.t.Fatal(err)
		}
		if !moved {
			break
		}
	}
	if got := strings.Join(r.rec.log, " "); got != want {
		r.t.Errorf("arrived: %q; want %q", got, want)
	}
	r.rec.log = nil
}

// TestAlignment: an input that delivered barrier n is not read until all have (A49).
func TestAlignment(t *testing.T) {
	r := newInletRig(t, 2)
	r.send(0, "1 B1")
	r.send(0, "2 3")
	r.arrives("1")
	r.send(1, "4")
	r.arrives("4")
	r.send(1, "5 B1")
	r.arrives("5 B1 2 3")

	// The end counts as aligned. The coordinator's message is needed when all inputs are aligned.
	r.send(0, "6 B2")
	r.send(1, "end")
	r.arrives("6 B2")
	r.send(0, "end")
	r.arrives("end")
	if err := r.in.trigger(3, false); err != nil {
		t.Fatal(err)
	}
	r.arrives("B3")
	if err := r.in.trigger(3, false); err != nil {
		t.Fatal(err)
	}
	r.arrives("")
}

// TestAlignmentGivenUp: after an abort the inputs are read again, and barriers
// that come late are passed over.
func TestAlignmentGivenUp(t *testing.T) {
	r := newInletRig(t, 2)
	r.send(0, "1 B1")
	r.send(0, "2")
	r.arrives("1")
	r.in.abort(1)
	r.arrives("2")
	r.send(1, "3 B1")
	r.send(0, "4 B2")
	r.arrives("4 3")
	r.in.trigger(1, false)
	r.send(1, "5 B2")
	r.arrives("5 B2")
	// The message about a checkpoint is kept if all its inputs end meanwhile.
	r.in.trigger(3, false)
	r.arrives("")
	r.send(0, "end")
	r.send(1, "end")
	r.arrives("B3 end")
}

// TestBarrierWaitsForItsWord: a barrier that came before the coordinator's message about it waits
// for that message, since the message about the end of the checkpoint before may still be on its
// way. Elements behind the barrier wait as well.
func TestBarrierWaitsForItsWord(t *testing.T) {
	r := newInletRig(t, 2)
	r.in.told = 0
	r.send(0, "1 B1")
	r.send(0, "2 B2")
	r.send(1, "3 B1")
	r.send(1, "4 B2")
	r.arrives("1 3")
	r.in.trigger(1, false)
	r.arrives("B1 2 4")
	r.in.trigger(2, false)
	r.arrives("B2")

	// One that was given up before it came whole is not in the way of the next.
	r.send(0, "B3")
	r.send(0, "5 B4")
	r.send(1, "B4")
	r.in.trigger(3, false)
	r.arrives("")
	r.in.abort(3)
	r.arrives("5")
	r.in.trigger(4, false)
	r.arrives("B4")
}

// TestOutlet: a slice goes when it is full or its receiver idle, and always before a mark; a
// full receiver stops the sender, but not a barrier.
func TestOutlet(t *testing.T) {
	var reports []report
	env := &taskEnv{wake: func() {}, parallelism: 1, report: func(r report) { reports = append(reports, r) }}
	newTask(env)
	links := edge[int]{}.links(1, 1)
	o := edge[int]{}.outlet(env, "op", links, 0, inTurn).(*outlet[int])
	l := links.([][]*link[int])[0][0]
	l.put = func() {}
	give := func(n int) {
		t.Helper()
		if err := o.records(make([]Record[int], n)); err != nil {
			t.Fatal(err)
		}
		o.turn(time.Time{})
	}
	give(3) // the receiver is idle
	if l.len() != 1 {
		t.Fatalf("%d elements wait; want the slice of 3", l.len())
	}
	give(5) // it is not: these wait to become more
	if l.len() != 1 || o.room() == 0 {
		t.Fatalf("%d elements wait, room for %d", l.len(), o.room())
	}
	o.watermark(async.Watermark{Time: 1})
	give(sliceSize)
	if l.len() != portSize || o.room() != 0 {
		t.Fatalf("%d elements wait, room for %d; want %d and none", l.len(), o.room(), portSize)
	}
	o.barrier(env.begin(1))
	o.end()
	o.barrier(env.begin(2)) // after the end it stays here
	var got []string
	for o.turn(time.Time{}); l.len() > 0; o.turn(time.Time{}) {
		e, _ := l.take()
		got = append(got, fmt.Sprintf("%d/%d", len(e.recs), e.mark))
	}
	if want := "[3/0 5/1 256/0 0/2 0/3]"; fmt.Sprint(got) != want {
		t.Errorf("sent %v; want %v", got, want)
	}
	if len(reports) != 3 || reports[0].ack.id != 1 || reports[1].kind != taskEnded || reports[2].ack.id != 2 {
		t.Errorf("reports %+v", reports)
	}
}

// TestPortWakes the goroutines that would otherwise wait for ever: the receiver of an element, and
// the sender that found the port full or keeps a slice until its receiver is idle.
func TestPortWakes(t *testing.T) {
	var put, taken int
	p := &port[int]{put: func() { put++ }, taken: func() { taken++ }}
	for i := range portSize {
		if !p.offer(i) || put != i+1 {
			t.Fatalf("element %d: %d wake-ups", i, put)
		}
	}
	if p.offer(9) || put != portSize {
		t.Error("a full port took one more")
	}
	p.take()
	if taken != 1 {
		t.Error("the sender does not hear of room in a full port")
	}
	for p.len() > 1 {
		p.take()
	}
	before := taken
	if v, ok := p.take(); !ok || v != portSize-1 || taken != before+1 {
		t.Error("the sender does not hear that its receiver is idle")
	}
	if _, ok := p.take(); ok || taken != before+1 {
		t.Error("an empty port gave something")
	}
	r := &recycler[*int]{}
	s := append(r.get(), Record[*int]{Value: new(int)})
	r.give(s)
	if again := r.get(); &again[:1][0] != &s[0] || s[0].Value != nil {
		t.Error("a slice did not come back, or came back with its records")
	}
}

// TestLaneOf: a key's subtask must not change between versions, since state is assigned by it.
func TestLaneOf(t *testing.T) {
	var got []int
	for _, key := range []string{"", "a", "b", "key", "Schlüssel", "42"} {
		got = append(got, laneOf(key, 7))
	}
	if want := []int{6, 1, 5, 5, 1, 5}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestLargeRecordsCrossInSmallSlices: slices between goroutines are bounded in bytes as well, and
// one larger record crosses alone.
func TestLargeRecordsCrossInSmallSlices(t *testing.T) {
	type picture struct{ Pixels []byte }
	for each, want := range map[int]string{
		sliceBytes / 4:     "[3 3 2]", // the type itself counts too
		sliceBytes / 2:     "[1 1 1 1 1 1 1 1]",
		2 * sliceBytes:     "[1 1 1 1 1 1 1 1]",
		sliceBytes/2 - 100: "[2 2 2 2]",
		1:                  "[8]",
	} {
		env := &taskEnv{wake: func() {}, parallelism: 1}
		newTask(env)
		links := edge[picture]{}.links(1, 1)
		o := edge[picture]{}.outlet(env, "op", links, 0, inTurn).(*outlet[picture])
		l := links.([][]*link[picture])[0][0]
		l.put = func() {}
		var recs []Record[picture]
		for range 8 {
			recs = append(recs, Record[picture]{Value: picture{make([]byte, each)}})
		}
		if err := o.records(recs); err != nil {
			t.Fatal(err)
		}
		var got []int
		for o.turn(time.Time{}); l.len() > 0; o.turn(time.Time{}) {
			e, _ := l.take()
			got = append(got, len(e.recs))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("records of %d bytes crossed in slices of %v; want %s", each, got, want)
		}
	}
}
