package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job/local"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
)

func TestMeter(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	m := &meter{name: "digits", began: start}
	var stays [2]async.Histogram
	var requests traffic
	at := func(ms int, done int64) *glance {
		g := &glance{
			Progress: stream.Progress{State: stream.StateRunning, Began: start, InFlight: 100, Totals: stream.Totals{Read: done + 100, Completed: done, Emitted: done}},
			at:       start.Add(time.Duration(ms) * time.Millisecond), unread: -1, requests: requests.requests.Load(), rows: requests.rows.Load(),
		}
		for i := range stays {
			g.Worked = append(g.Worked, stream.SubtaskProgress{Subtask: i, Watermark: async.NoTime, OperatorProgress: stream.OperatorProgress{
				Name: local.InferName, Completed: done / 2, Async: async.Stats{Latency: stays[i]}}})
		}
		m.add(g)
		return g
	}
	show := func(g *glance, width int, want string) {
		t.Helper()
		if got := strings.Join(m.block(g, width), "\n"); got != want {
			t.Errorf("the block is\n%s\nwant\n%s", got, want)
		}
	}
	g := at(0, 0)
	show(g, 80, `digits  running  0.0s
  records      in 100   out 0   committed 0   -
  in flight    100   batch -
  latency      p50 -   p95 -   p99 -
  checkpoints  0   none yet   failed 0   restarts 0`)
	for ms := 200; ms <= 10_000; ms += 200 {
		for i := range 200 {
			d := 10 * time.Millisecond // of all but one in twenty
			if ms < 5000 || i%20 == 0 {
				d = time.Second
			}
			stays[i%2].Add(d)
		}
		requests.take(sidecar.Request{Rows: 30})
		requests.take(sidecar.Request{Rows: 31})
		g = at(ms, int64(ms)) // 1000 a second
	}
	if rate, known := m.rate(); rate != 1000 || !known || m.batch() != "30.5" {
		t.Errorf("rate %v, batch %v; want 1000/s and 30.5", rate, m.batch())
	}
	if len(m.window) > 12 {
		t.Errorf("%d samples are kept of a window of %v", len(m.window), rateWindow)
	}
	// What was slow five seconds ago is not shown any more.
	l := m.latency()
	if p50, p99 := l.Quantile(0.5), l.Quantile(0.99); p50 < 6*time.Millisecond || p50 > 13*time.Millisecond || p99 < 800*time.Millisecond {
		t.Errorf("p50 %v, p99 %v; want about 10ms and 1s", p50, p99)
	}
	g.Restarts, g.LastError = 1, errors.New("lost\nthe sidecar")
	g.Dropped, g.DeadLettered = 7, 1200
	g.CheckpointsCompleted, g.LastCheckpointAt, g.LastCheckpointTook = 1234, start.Add(9*time.Second), 5*time.Millisecond
	g.unread = 12345
	g.Worked[0].Watermark, g.Worked[1].Watermark = async.At(g.at.Add(-3*time.Second)), async.EndOfTime
	last := &g.Worked[1]
	last.Open, last.Async.Limit, last.Async.MaxCalls, last.Async.Held, last.Async.HeldFor = true, 250, 1000, 60, sidecar.ErrOverloaded
	show(g, 80, `digits  running  10.0s
  records      in 10,100   out 10,000   committed 0   1,000/s
  lag          12,345 not read   event time 3.0s behind
  in flight    100   batch 30.5
  latency      p50 10ms   p95 13ms   p99 1.47s
  server       overloaded, 250 of 1,000 calls allowed, 60 held
  failed       dropped 7   dead letters 1,200
  checkpoints  1,234   last 1.0s ago, took 5ms   failed 0   restarts 1
  last error   lost the sidecar`)
	said := fmt.Sprint(m.attrs(g))
	for _, want := range []string{"state=running", "lag=12345", "watermark_lag=3.0s", "p50=10ms", "p95=13ms", "p99=1.47s", "batch=30.5",
		"server=overloaded, 250 of", "checkpoint_age=1.0s", "restarts=1", "last_error=lost", "dropped=7"} {
		if !strings.Contains(said, want) {
			t.Errorf("a log line has no %s: %s", want, said)
		}
	}
}

// TestServer: the state of the server is that of the last event.
func TestServer(t *testing.T) {
	type stats = async.Stats
	running := func(s stats) stats {
		s.Limit, s.MaxCalls = cmp.Or(s.Limit, 8), 8
		return s
	}
	lost := errors.New("the connection is lost")
	for _, c := range []struct {
		want string
		subs []stats
	}{
		{"", nil}, // nothing runs, or not yet
		{"connected", []stats{running(stats{}), running(stats{})}},
		// it was overloaded
		{"connected, 10 of 16 calls allowed", []stats{running(stats{Limit: 2}), running(stats{})}},
		{"overloaded, 10 of 16 calls allowed, 3 held", []stats{running(stats{Limit: 2, Held: 3, HeldFor: sidecar.ErrOverloaded}), running(stats{})}},
		{"not ready, 3 held: the server or its model is not ready", []stats{running(stats{Held: 3, HeldFor: sidecar.ErrNotReady})}},
		{"away, 5 held: the connection is lost", []stats{running(stats{Suspended: lost, Held: 3}), running(stats{Suspended: lost, Held: 2})}},
		{"away for 1 of 2 subtasks, 5 held: the connection is lost", []stats{running(stats{Suspended: lost, Held: 5}), running(stats{})}},
		{"slow, 5 held: the request ran out of time", []stats{running(stats{Suspended: sidecar.ErrTimeout, Held: 5})}},
		{"not ready, 0 held: the server or its model is not ready", []stats{running(stats{Suspended: sidecar.ErrNotReady})}},
	} {
		// One that has ended says nothing about the server of now.
		g := glance{Progress: stream.Progress{Worked: []stream.SubtaskProgress{{OperatorProgress: stream.OperatorProgress{Name: local.InferName, Async: stats{Limit: 1, MaxCalls: 8}}}}}}
		for i, s := range c.subs {
			g.Worked = append(g.Worked, stream.SubtaskProgress{Subtask: i, Open: true, OperatorProgress: stream.OperatorProgress{Name: local.InferName, Async: s}})
		}
		if got := g.server(); got != c.want {
			t.Errorf("of %+v it says %q, want %q", c.subs, got, c.want)
		}
	}
}

// TestRate: the rate is of this process only, is known from the first glance on, also across
// restarts, and is not 0 while records move.
func TestRate(t *testing.T) {
	start := time.Now()
	m := &meter{}
	for _, c := range []struct {
		at      time.Duration
		total   int64 // of all processes; a restart takes it back
		settled int64 // by this one
		text    string
		attr    string
	}{
		{0, 5000, 0, "-", ""},
		{5 * time.Second, 6000, 1000, "200/s", "rate=200"},
		{10 * time.Second, 6000, 1000, "0/s", "rate=0"},
		{15 * time.Second, 5000, 1000, "0/s", "rate=0"},      // a restart
		{20 * time.Second, 6001, 2001, "200/s", "rate=200"},  // and it is 1 further than before
		{25 * time.Second, 6003, 2003, "0.4/s", "rate=0.4"},  // a slow model
		{30 * time.Second, 6052, 2052, "9.8/s", "rate=9.8"},  //
		{35 * time.Second, 6152, 2152, "20/s", "rate=20"},    //
		{40 * time.Second, 6e7, 5e7, "9,999,570/s", "99570"}, //
	} {
		g := &glance{Progress: stream.Progress{Began: start, Totals: stream.Totals{Completed: c.total}, Before: stream.Totals{Completed: 5000}}, at: start.Add(c.at), unread: -1}
		for i := range int64(3) { // one settled record of three has each outcome
			w := stream.OperatorProgress{Name: local.InferName}
			*[]*int64{&w.Completed, &w.Dropped, &w.DeadLettered}[i] = (c.settled + i) / 3
			g.Worked = append(g.Worked, stream.SubtaskProgress{OperatorProgress: w, Subtask: int(i)})
		}
		// What other operators did with the same records is not counted again.
		g.Worked = append(g.Worked, stream.SubtaskProgress{OperatorProgress: stream.OperatorProgress{Name: local.SinkName, Completed: c.settled}})
		m.add(g)
		said := fmt.Sprint(m.attrs(g)...)
		if got := rateText(m.rate()); got != c.text || !strings.Contains(said, c.attr) || strings.Contains(said, "rate=") != (c.attr != "") {
			t.Errorf("after %v the rate is %s, and in a log line %s; want %s", c.at, got, said, c.text)
		}
	}
	// The first look may be at once, or after a while with nothing done.
	for took, want := range map[time.Duration]string{-time.Second: "-", 0: "-", time.Second: "0/s"} {
		if got := rateText(rateOf(0, took)); got != want {
			t.Errorf("the rate of nothing in %v is %s, want %s", took, got, want)
		}
	}
}

// TestPercentilesOfLittle: no records have no percentile, one record is its own median, and a time
// above all bounds is shown as greater than the last bound.
func TestPercentilesOfLittle(t *testing.T) {
	m := &meter{}
	g := &glance{Progress: stream.Progress{Began: time.Now(), Worked: []stream.SubtaskProgress{{OperatorProgress: stream.OperatorProgress{Name: local.InferName}}}}, at: time.Now()}
	for _, c := range []struct {
		add  time.Duration
		want [3]string
	}{
		{-1, [3]string{"-", "-", "-"}},
		// within its bucket of the histogram, 12.8 to 25.6 ms
		{20 * time.Millisecond, [3]string{"19ms", "25ms", "25ms"}},
		{time.Hour, [3]string{"26ms", ">104.9s", ">104.9s"}},
	} {
		if c.add >= 0 {
			g.Worked[0].Async.Latency.Add(c.add)
		}
		m.add(g)
		if got := m.percentiles(); got != c.want {
			t.Errorf("after %v: %v, want %v", c.add, got, c.want)
		}
		if c.add < 0 && m.batch() != "-" {
			t.Errorf("the mean of no requests is %s", m.batch())
		}
	}
}

func TestGroup(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 100000: "100,000"} {
		if got := group(n); got != want {
			t.Errorf("group(%d) is %s, want %s", n, got, want)
		}
	}
}
