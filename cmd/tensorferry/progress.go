package main

import (
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/tensorferry/tensorferry/stream"
)

// How often the block on a terminal is redrawn, and how often a line is logged
// where there is none.
const (
	redrawEvery = 200 * time.Millisecond
	logEvery    = 5 * time.Second
)

// meter turns the counts of a run into what is shown of it.
type meter struct {
	name  string
	began time.Time
	// The rate is that of a window of about a second, moved on by each sample.
	window []sample
}

type sample struct {
	at  time.Time
	out int64
}

const rateWindow = 2 * time.Second

// add takes a sample. A restart takes counts back; the window then begins anew.
func (m *meter) add(now time.Time, p *stream.Progress) {
	out := p.Completed + p.Dropped + p.DeadLettered
	if n := len(m.window); n > 0 && out < m.window[n-1].out {
		m.window = m.window[:0]
	}
	m.window = append(m.window, sample{now, out})
	for len(m.window) > 2 && now.Sub(m.window[1].at) >= rateWindow {
		m.window = append(m.window[:0], m.window[1:]...)
	}
}

// rate is in records a second; 0 before there are two samples.
func (m *meter) rate() float64 {
	first, last := m.window[0], m.window[len(m.window)-1]
	span := last.at.Sub(first.at).Seconds()
	if span <= 0 {
		return 0
	}
	return float64(last.out-first.out) / span
}

// latency is the mean time of a record between its admission and its outcome. By
// Little's law it is the number in flight over the rate, so nothing has to be
// timed for each record. It is 0 if nothing comes out.
func (m *meter) latency(p *stream.Progress) time.Duration {
	r := m.rate()
	if r <= 0 {
		return 0
	}
	return time.Duration(float64(p.InFlight) / r * float64(time.Second))
}

// block is what a terminal shows.
func (m *meter) block(now time.Time, p *stream.Progress) []string {
	lines := []string{
		fmt.Sprintf("%s  %s  %s", m.name, p.State, seconds(now.Sub(m.began))),
		fmt.Sprintf("  records      in %s   out %s   committed %s   %s/s", group(p.Read), group(p.Emitted), group(p.Committed), group(int64(m.rate()))),
		fmt.Sprintf("  in flight    %s   latency %s", group(p.InFlight), millis(m.latency(p))),
	}
	if p.Dropped > 0 || p.DeadLettered > 0 {
		lines = append(lines, fmt.Sprintf("  failed       dropped %s   dead letters %s", group(p.Dropped), group(p.DeadLettered)))
	}
	last := "none yet"
	if !p.LastCheckpointAt.IsZero() {
		last = fmt.Sprintf("%s ago, took %s", seconds(now.Sub(p.LastCheckpointAt)), millis(p.LastCheckpointTook))
	}
	lines = append(lines, fmt.Sprintf("  checkpoints  %d   failed %d   last %s   restarts %d", p.CheckpointsCompleted, p.CheckpointsFailed, last, p.Restarts))
	if p.LastError != nil {
		lines = append(lines, "  last error   "+p.LastError.Error())
	}
	return lines
}

// attrs is what a log line says.
func (m *meter) attrs(now time.Time, p *stream.Progress) []any {
	a := []any{
		slog.String("state", string(p.State)),
		slog.Int64("in", p.Read), slog.Int64("out", p.Emitted), slog.Int64("committed", p.Committed),
		slog.Int64("dropped", p.Dropped), slog.Int64("dead_lettered", p.DeadLettered),
		slog.Int64("rate", int64(m.rate())), slog.Int64("in_flight", p.InFlight),
		slog.String("latency", millis(m.latency(p))),
		slog.Int64("checkpoints", p.CheckpointsCompleted), slog.Int64("checkpoints_failed", p.CheckpointsFailed),
		slog.Int("restarts", p.Restarts),
	}
	if p.LastError != nil {
		a = append(a, slog.String("last_error", p.LastError.Error()))
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
	case d < 10*time.Second:
		return fmt.Sprintf("%.0fms", float64(d)/float64(time.Millisecond))
	}
	return seconds(d)
}
