package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
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
			Progress: stream.Progress{State: stream.StateRunning, InFlight: 100, Totals: stream.Totals{Read: done + 100, Completed: done, Emitted: done}},
			at:       start.Add(time.Duration(ms) * time.Millisecond), unread: -1, requests: requests.requests.Load(), rows: requests.rows.Load(),
		}
		for i := range stays {
			g.Worked = append(g.Worked, stream.SubtaskProgress{Subtask: i, Watermark: async.NoTime, OperatorProgress: stream.OperatorProgress{Async: async.Stats{Latency: stays[i]}}})
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
  records      in 100   out 0   committed 0   0/s
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
	if m.rate() != 1000 || m.batch() != 30.5 {
		t.Errorf("rate %v, batch %v; want 1000/s and 30.5", m.rate(), m.batch())
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
	g.Operators = []stream.OperatorProgress{{Name: "infer", Async: async.Stats{Limit: 250, MaxCalls: 1000, Held: 60}}}
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
	g.Operators[0].Async.Suspended = errors.New("the connection is lost")
	if got, want := g.server(), "away, 60 held: the connection is lost"; got != want {
		t.Errorf("the server is %q, want %q", got, want)
	}
	g.State = stream.StateRestarting
	if got := g.server(); got != "" {
		t.Errorf("while the job waits for its restart the server is %q, want nothing", got)
	}
	g.State = stream.StateStopping
	g.Operators[0].Async = async.Stats{Limit: 1000, MaxCalls: 1000}
	if got := g.server(); got != "connected" {
		t.Errorf("the server is %q, want connected", got)
	}
	// A restart takes the counts back; the rate must not go below 0.
	at(10_200, 4000)
	at(10_400, 4100)
	if m.rate() != 500 {
		t.Errorf("after a restart the rate is %v, want 500/s", m.rate())
	}
}

func TestGroup(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 100000: "100,000"} {
		if got := group(n); got != want {
			t.Errorf("group(%d) is %s, want %s", n, got, want)
		}
	}
}
