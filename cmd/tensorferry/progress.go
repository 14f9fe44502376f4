package main

import (
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
)

// How often the block on a terminal is redrawn, and how often a line is logged
// where there is none.
const (
	redrawEvery = 200 * time.Millisecond
	logEvery    = 5 * time.Second
)

// traffic counts the requests to the model server, and the records in them. It is safe for concurrent use.
type traffic struct{ requests, rows atomic.Int64 }

// take counts a request that has ended.
func (t *traffic) take(r sidecar.Request) {
	t.requests.Add(1)
	t.rows.Add(int64(r.Rows))
}

// glance is what there is to show of a run at one moment.
type glance struct {
	stream.Progress
	at             time.Time
	requests, rows int64
	// unread are the records of the source that are there and have not been read, below 0 where nobody knows.
	unread int64
}

// meter turns glances at a run into what is shown of it.
type meter struct {
	name  string
	began time.Time
	// What goes on lately is what went on in a window of about two seconds, moved on by each sample.
	window []sample
}

type sample struct {
	at                  time.Time
	out, requests, rows int64
	latency             async.Histogram
}

const rateWindow = 2 * time.Second

// add takes a sample. A restart takes counts back; the window then begins anew.
func (m *meter) add(g *glance) {
	now := sample{at: g.at, out: g.Completed + g.Dropped + g.DeadLettered, requests: g.requests, rows: g.rows}
	for i := range g.Worked {
		now.latency = now.latency.Plus(g.Worked[i].Async.Latency)
	}
	if n := len(m.window); n > 0 && now.out < m.window[n-1].out {
		m.window = m.window[:0]
	}
	m.window = append(m.window, now)
	for len(m.window) > 2 && now.at.Sub(m.window[1].at) >= rateWindow {
		m.window = append(m.window[:0], m.window[1:]...)
	}
}

func (m *meter) ends() (first, last *sample) { return &m.window[0], &m.window[len(m.window)-1] }

// rate is in records a second; 0 before there are two samples.
func (m *meter) rate() float64 {
	first, last := m.ends()
	span := last.at.Sub(first.at).Seconds()
	if span <= 0 {
		return 0
	}
	return float64(last.out-first.out) / span
}

// latency is how long the records that left lately had been in the operator.
func (m *meter) latency() async.Histogram {
	first, last := m.ends()
	return last.latency.Minus(first.latency)
}

// batch is the mean of records in a request lately; 0 if there was none.
func (m *meter) batch() float64 {
	first, last := m.ends()
	if last.requests == first.requests {
		return 0
	}
	return float64(last.rows-first.rows) / float64(last.requests-first.requests)
}

// server says whether calls can be made, and how many if it is fewer than there might be. It is empty while nothing runs.
func (g *glance) server() string {
	var s async.Stats
	for i := range g.Operators {
		a := &g.Operators[i].Async
		s.Limit, s.MaxCalls, s.Held = s.Limit+a.Limit, s.MaxCalls+a.MaxCalls, s.Held+a.Held
	}
	switch why := suspension(&g.Progress); {
	case g.State == stream.StateRestarting:
		return "" // what is known is of the attempt that failed
	case why != nil:
		return fmt.Sprintf("away, %s held: %v", group(int64(s.Held)), why)
	case s.MaxCalls == 0:
		return ""
	case s.Limit < s.MaxCalls || s.Held > 0:
		return fmt.Sprintf("overloaded, %s of %s calls allowed, %s held", group(int64(s.Limit)), group(int64(s.MaxCalls)), group(int64(s.Held)))
	}
	return "connected"
}

// behind is how far the last subtask is behind in event time; false if none has a watermark.
func (g *glance) behind() (most time.Duration, known bool) {
	for i := range g.Worked {
		if d, ok := watermarkLag(&g.Worked[i], g.at); ok && (!known || d > most) {
			most, known = d, true
		}
	}
	return most, known
}

// block is what a terminal of that width shows.
func (m *meter) block(g *glance, width int) (lines []string) {
	row := func(label string, items ...string) { lines = append(lines, wrap(label, width, items...)...) }
	lines = []string{fmt.Sprintf("%s  %s  %s", m.name, g.State, seconds(g.at.Sub(m.began)))}
	row("  records", "in "+group(g.Read), "out "+group(g.Emitted), "committed "+group(g.Committed), group(int64(m.rate()))+"/s")
	var lag []string
	if g.unread >= 0 {
		lag = append(lag, group(g.unread)+" not read")
	}
	if d, ok := g.behind(); ok {
		lag = append(lag, "event time "+seconds(d)+" behind")
	}
	if lag != nil {
		row("  lag", lag...)
	}
	batch := "-"
	if b := m.batch(); b > 0 {
		batch = strconv.FormatFloat(b, 'f', 1, 64)
	}
	row("  in flight", group(g.InFlight), "batch "+batch)
	l := m.latency()
	row("  latency", "p50 "+millis(l.Quantile(0.5)), "p95 "+millis(l.Quantile(0.95)), "p99 "+millis(l.Quantile(0.99)))
	if s := g.server(); s != "" {
		row("  server", s)
	}
	if g.Dropped > 0 || g.DeadLettered > 0 {
		row("  failed", "dropped "+group(g.Dropped), "dead letters "+group(g.DeadLettered))
	}
	last := "none yet"
	if !g.LastCheckpointAt.IsZero() {
		last = fmt.Sprintf("last %s ago", seconds(g.at.Sub(g.LastCheckpointAt)))
		if g.LastCheckpointTook > 0 {
			last += ", took " + millis(g.LastCheckpointTook)
		}
	}
	row("  checkpoints", group(g.CheckpointsCompleted), last, fmt.Sprintf("failed %d", g.CheckpointsFailed), fmt.Sprintf("restarts %d", g.Restarts))
	if g.LastError != nil {
		row("  last error", g.LastError.Error())
	}
	return lines
}

// attrs is what a log line says.
func (m *meter) attrs(g *glance) []any {
	l := m.latency()
	a := []any{
		slog.String("state", string(g.State)),
		slog.Int64("in", g.Read), slog.Int64("out", g.Emitted), slog.Int64("committed", g.Committed),
		slog.Int64("dropped", g.Dropped), slog.Int64("dead_lettered", g.DeadLettered),
		slog.Int64("rate", int64(m.rate())), slog.Int64("in_flight", g.InFlight),
		slog.String("p50", millis(l.Quantile(0.5))), slog.String("p95", millis(l.Quantile(0.95))), slog.String("p99", millis(l.Quantile(0.99))),
		slog.String("batch", strconv.FormatFloat(m.batch(), 'f', 1, 64)),
	}
	if g.unread >= 0 {
		a = append(a, slog.Int64("lag", g.unread))
	}
	if d, ok := g.behind(); ok {
		a = append(a, slog.String("watermark_lag", seconds(d)))
	}
	if s := g.server(); s != "" {
		a = append(a, slog.String("server", s))
	}
	if g.Untimed > 0 {
		a = append(a, slog.Int64("untimed", g.Untimed))
	}
	a = append(a, slog.Int64("checkpoints", g.CheckpointsCompleted), slog.Int64("checkpoints_failed", g.CheckpointsFailed))
	if !g.LastCheckpointAt.IsZero() {
		a = append(a, slog.String("checkpoint_age", seconds(g.at.Sub(g.LastCheckpointAt))))
	}
	a = append(a, slog.Int("restarts", g.Restarts))
	if g.LastError != nil {
		a = append(a, slog.String("last_error", g.LastError.Error()))
	}
	return a
}

// group writes a number with commas.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", max(d, 0).Seconds()) }

func millis(d time.Duration) string {
	switch {
	case d <= 0:
		return "-"
	case d < time.Millisecond:
		return "<1ms"
	case d < time.Second:
		return fmt.Sprintf("%.0fms", float64(d)/float64(time.Millisecond))
	case d < 10*time.Second:
		return fmt.Sprintf("%.2fs", d.Seconds())
	}
	return seconds(d)
}
