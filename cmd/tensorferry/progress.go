package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job/local"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
)

// How often the block on a terminal is redrawn, and how often a line is logged without a terminal.
const (
	redrawEvery = 200 * time.Millisecond
	logEvery    = 5 * time.Second
)

// traffic counts the requests to the model server, and the records in them. It is safe for
// concurrent use.
type traffic struct{ requests, rows atomic.Int64 }

// take counts a request that has ended.
func (t *traffic) take(r sidecar.Request) {
	t.requests.Add(1)
	t.rows.Add(int64(r.Rows))
}

// glance is what can be shown of a run at one moment.
type glance struct {
	stream.Progress
	at             time.Time
	requests, rows int64
	// unread is the number of the source's records that have not been read, or -1 if unknown.
	unread int64
}

// meter turns glances at a run into text.
type meter struct {
	name  string
	began time.Time
	// Recent rates and times are those of a window of about two seconds. Each sample moves it.
	window []sample
}

// sample has the totals of this process at one moment: records with an outcome, including those
// that a restart read again, and requests. The totals never decrease.
type sample struct {
	at                      time.Time
	settled, requests, rows int64
	latency                 async.Histogram
}

const rateWindow = 2 * time.Second

// add takes a sample. The first one of a run follows an empty one at the run's beginning.
func (m *meter) add(g *glance) {
	now := sample{at: g.at, requests: g.requests, rows: g.rows}
	for i := range g.Worked {
		if w := &g.Worked[i]; w.Name == local.InferName {
			now.settled += w.Completed + w.Dropped + w.DeadLettered
			now.latency = now.latency.Plus(w.Async.Latency)
		}
	}
	if len(m.window) == 0 && !g.Began.IsZero() {
		m.window = append(m.window, sample{at: g.Began})
	}
	m.window = append(m.window, now)
	for len(m.window) > 2 && now.at.Sub(m.window[1].at) >= rateWindow {
		m.window = append(m.window[:0], m.window[1:]...)
	}
}

func (m *meter) ends() (first, last *sample) { return &m.window[0], &m.window[len(m.window)-1] }

// rate is the recent rate of outcomes; see rateOf.
func (m *meter) rate() (float64, bool) {
	first, last := m.ends()
	return rateOf(last.settled-first.settled, last.at.Sub(first.at))
}

// rateOf returns records per second, or false if no time has passed.
func rateOf(records int64, took time.Duration) (rate float64, known bool) {
	if took <= 0 {
		return 0, false
	}
	return float64(records) / took.Seconds(), true
}

// rateText writes a rate, or a dash if it is not known. It does not round a slow rate to 0.
func rateText(rate float64, known bool) string {
	switch {
	case !known:
		return "-"
	case rate < 10:
		return strconv.FormatFloat(rate, 'g', 2, 64) + "/s"
	}
	return group(int64(math.Round(rate))) + "/s"
}

// rateAttr is rateText for a log line.
func rateAttr(rate float64) slog.Attr {
	if rate < 10 {
		short, _ := strconv.ParseFloat(strconv.FormatFloat(rate, 'g', 2, 64), 64)
		return slog.Float64("rate", short)
	}
	return slog.Int64("rate", int64(math.Round(rate)))
}

// latency returns the time in the operator of records that left it recently.
func (m *meter) latency() async.Histogram {
	first, last := m.ends()
	return last.latency.Minus(first.latency)
}

// percentiles writes p50, p95 and p99, in this order.
func (m *meter) percentiles() (texts [3]string) {
	h := m.latency()
	for i, q := range [...]float64{0.5, 0.95, 0.99} {
		d := h.Quantile(q)
		if texts[i] = millis(d); d >= async.HistogramBound(async.HistogramBuckets-1) {
			texts[i] = ">" + texts[i] // the last bucket has no upper bound
		}
	}
	return texts
}

// batch returns the recent mean of records per request, or a dash without requests.
func (m *meter) batch() string {
	first, last := m.ends()
	if last.requests == first.requests {
		return "-"
	}
	return strconv.FormatFloat(float64(last.rows-first.rows)/float64(last.requests-first.requests), 'f', 1, 64)
}

// server says whether calls can be made, how many if their number is limited at present, and the
// last failure if the server takes no calls. It is empty while no subtask runs.
func (g *glance) server() string {
	var s async.Stats
	open, suspended := 0, 0
	for i := range g.Worked {
		if w := &g.Worked[i]; w.Open {
			open++
			if w.Async.Suspended != nil {
				suspended++
			}
			s.Limit, s.MaxCalls, s.Held = s.Limit+w.Async.Limit, s.MaxCalls+w.Async.MaxCalls, s.Held+w.Async.Held
			s.Suspended, s.HeldFor = cmp.Or(s.Suspended, w.Async.Suspended), cmp.Or(s.HeldFor, w.Async.HeldFor)
		}
	}
	partly := ""
	if suspended < open {
		partly = fmt.Sprintf(" for %d of %d subtasks", suspended, open)
	}
	held := group(int64(s.Held)) + " held"
	allowed := fmt.Sprintf("%s of %s calls allowed", group(int64(s.Limit)), group(int64(s.MaxCalls)))
	switch {
	case open == 0:
		return ""
	case s.Suspended != nil:
		return fmt.Sprintf("%s%s, %s: %v", standing(s.Suspended), partly, held, s.Suspended)
	case s.Held > 0 && standing(s.HeldFor) == overloaded:
		return overloaded + ", " + allowed + ", " + held
	case s.Held > 0:
		return fmt.Sprintf("%s, %s: %v", standing(s.HeldFor), held, s.HeldFor)
	case s.Limit < s.MaxCalls:
		return "connected, " + allowed
	}
	return "connected"
}

const overloaded = "overloaded"

// standing says in a word or two why a server takes no calls.
func standing(why error) string {
	switch {
	case errors.Is(why, sidecar.ErrNotReady):
		return "not ready"
	case errors.Is(why, sidecar.ErrTimeout):
		return "slow"
	case errors.Is(why, sidecar.ErrOverloaded), async.VerdictOf(why).Class == async.Overload:
		return overloaded
	}
	return "away"
}

// behind returns how far the slowest subtask is behind in event time, or false without watermarks.
func (g *glance) behind() (most time.Duration, known bool) {
	for i := range g.Worked {
		if d, ok := watermarkLag(&g.Worked[i], g.at); ok && (!known || d > most) {
			most, known = d, true
		}
	}
	return most, known
}

// block returns the lines for a terminal of that width.
func (m *meter) block(g *glance, width int) (lines []string) {
	row := func(label string, items ...string) { lines = append(lines, wrap(label, width, items...)...) }
	lines = []string{fmt.Sprintf("%s  %s  %s", m.name, g.State, seconds(g.at.Sub(m.began)))}
	row("  records", "in "+group(g.Read), "out "+group(g.Emitted), "committed "+group(g.Committed), rateText(m.rate()))
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
	row("  in flight", group(g.InFlight), "batch "+m.batch())
	p := m.percentiles()
	row("  latency", "p50 "+p[0], "p95 "+p[1], "p99 "+p[2])
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

// attrs returns the attributes of a progress line in the log.
func (m *meter) attrs(g *glance) []any {
	p := m.percentiles()
	a := []any{
		slog.String("state", string(g.State)),
		slog.Int64("in", g.Read), slog.Int64("out", g.Emitted), slog.Int64("committed", g.Committed),
		slog.Int64("dropped", g.Dropped), slog.Int64("dead_lettered", g.DeadLettered),
	}
	if rate, known := m.rate(); known {
		a = append(a, rateAttr(rate))
	}
	a = append(a, slog.Int64("in_flight", g.InFlight),
		slog.String("p50", p[0]), slog.String("p95", p[1]), slog.String("p99", p[2]), slog.String("batch", m.batch()))
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
