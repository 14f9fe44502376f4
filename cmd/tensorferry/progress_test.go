package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/stream"
)

func TestMeter(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	m := &meter{name: "digits", began: start}
	at := func(ms int, done int64) *stream.Progress {
		p := &stream.Progress{State: stream.StateRunning, InFlight: 100, Totals: stream.Totals{Read: done + 100, Completed: done, Emitted: done}}
		m.add(start.Add(time.Duration(ms)*time.Millisecond), p)
		return p
	}
	p := at(0, 0)
	if m.rate() != 0 || m.latency(p) != 0 {
		t.Errorf("of one sample: rate %v, latency %v, want none", m.rate(), m.latency(p))
	}
	for ms := 200; ms <= 10_000; ms += 200 {
		p = at(ms, int64(ms)) // 1000 a second
	}
	if m.rate() != 1000 {
		t.Errorf("rate %v, want 1000/s", m.rate())
	}
	// 100 in flight at 1000/s stay for 100 ms each.
	if got := m.latency(p); got != 100*time.Millisecond {
		t.Errorf("latency %v, want 100ms", got)
	}
	if len(m.window) > 12 {
		t.Errorf("%d samples are kept of a window of %v", len(m.window), rateWindow)
	}
	p.Restarts, p.LastError = 1, errors.New("lost\nthe sidecar")
	p.Dropped, p.DeadLettered = 7, 1200
	p.CheckpointsCompleted, p.LastCheckpointAt, p.LastCheckpointTook = 1234, start.Add(9*time.Second), 5*time.Millisecond
	got := strings.Join(m.block(start.Add(10*time.Second), p), "\n")
	want := `digits  running  10.0s
  records      in 10,100   out 10,000   committed 0   1,000/s
  in flight    100   latency 100ms
  failed       dropped 7   dead letters 1,200
  checkpoints  1234   failed 0   last 1.0s ago, took 5ms   restarts 1
  last error   lost
the sidecar`
	if got != want {
		t.Errorf("the block is\n%s\nwant\n%s", got, want)
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
