//go:build integration

package flink

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/tensorferry/tensorferry/internal/pyenv"
)

// What every job here has.
const (
	rowWidth    = 64 // FP32 values in a record
	capacity    = 1000
	checkpoints = time.Second
)

// load is what a job is given to do.
type load struct {
	records   int
	warm      int     // the first of them, which are not measured
	perSecond float64 // 0: as fast as the job takes them
}

// figures are what a job took for its records.
type figures struct {
	Records int
	Nanos   int64 // from the first record that is measured to the last
	// of the latencies, from when a record is due to when its result is at the sink, in ns
	P50, P99     int64
	Ticks        int64 // of the processors, for the process or processes that run the job
	SidecarTicks int64 // and for the sidecar
}

func newFigures(latencies []time.Duration, took time.Duration, ticks, sidecarTicks int64) figures {
	slices.Sort(latencies)
	at := func(q float64) int64 { return int64(latencies[int(q*float64(len(latencies)-1))]) }
	return figures{len(latencies), int64(took), at(0.5), at(0.99), ticks, sidecarTicks}
}

// parseTicks reads /proc/PID/stat.
func parseTicks(stat string) (int64, error) {
	// The name is in parentheses and may contain anything.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("not a process's times: %q", stat)
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return user + system, err
}

// ticksPerSecond is USER_HZ, which is 100 wherever Linux runs.
const ticksPerSecond = 100

func (f figures) perSecond() float64 { return float64(f.Records) / time.Duration(f.Nanos).Seconds() }
func (f figures) p50() float64       { return float64(f.P50) / 1e6 }
func (f figures) p99() float64       { return float64(f.P99) / 1e6 }
func (f figures) cpu() float64       { return float64(f.Ticks) / ticksPerSecond * 1e6 / float64(f.Records) }
func (f figures) sidecarCPU() float64 {
	return float64(f.SidecarTicks) / ticksPerSecond * 1e6 / float64(f.Records)
}

// model is a process that serves the mock model: one device, 2 ms for each batch and 10 us for each
// row in it.
type model struct {
	*pyenv.Process
	endpoint string
}

func startModel(t testing.TB) *model {
	t.Helper()
	program, err := pyenv.Program()
	if err != nil {
		t.Fatal(err)
	}
	m := &model{endpoint: fmt.Sprintf("127.0.0.1:%d", pyenv.FreePort(t))}
	m.Process = pyenv.Start(t, exec.Command(program, "mock-sidecar", "--listen", m.endpoint, "--function", "sum",
		"--input", fmt.Sprintf("x:FP32[%d]", rowWidth), "--latency", "2ms", "--per-row", "10us", "--instances", "1"))
	m.Eventually("the model is there", func() bool { return strings.Contains(m.Output(), "ready") })
	return m
}

// host is something that runs the job: the same records, capacity, order, timeout and checkpoints,
// against the same model.
type host struct {
	name string
	run  func(testing.TB, *model, load) figures
	// upperBound: not a job that one would run, but what such a job cannot exceed. Its records come
	// in batches, so it is not asked to take them when they are due.
	upperBound bool
}

// hosts are those that are compared. A further one is one more entry.
func hosts(t testing.TB) []host {
	t.Helper()
	c := startFlink(t, true)
	onFlink := startBeam(t, c)
	return []host{
		{name: "tensorferry, embedded", run: runEmbedded},
		{name: "tensorferry on Flink, through Beam", run: func(t testing.TB, m *model, l load) figures {
			return onFlink.run(t, m, l, 0)
		}},
		// The runner ends a bundle of a source that is resumed at up to half this time after the
		// source has paused.
		{name: "tensorferry on Flink, bundle time 20 ms", run: func(t testing.TB, m *model, l load) figures {
			return onFlink.run(t, m, l, 20*time.Millisecond)
		}},
		{name: "Flink, orderedWait, a request for each record", run: func(t testing.TB, m *model, l load) figures {
			return runAsyncJob(t, c, m, l, 1)
		}},
		{name: "Flink, orderedWait, batches of 250 from the source", upperBound: true, run: func(t testing.TB, m *model, l load) figures {
			return runAsyncJob(t, c, m, l, 250)
		}},
	}
}

// TestBesideFlink: the jobs that are compared give the right results in order, and figures that can
// be.
func TestBesideFlink(t *testing.T) {
	m := startModel(t)
	for _, h := range hosts(t) {
		for _, l := range []load{{records: 5000, warm: 1000}, {records: 2000, warm: 1000, perSecond: 1000}} {
			if h.upperBound && l.perSecond > 0 {
				continue
			}
			// A latency is counted from when a record is due, and the model takes 2 ms. So the
			// median also says that records are not done before they are due.
			f := h.run(t, m, l)
			if f.Records != l.records-l.warm || f.Nanos <= 0 || f.P50 < int64(2*time.Millisecond) || f.P99 < f.P50 || f.Ticks < 0 || f.SidecarTicks < 0 {
				t.Errorf("%s, %+v: %+v", h.name, l, f)
			}
		}
	}
}

// BenchmarkBesideFlink compares the hosts. Each has its turn in each round, so that what else the
// machine does hits all of them. It prints medians of the rounds, the least and most records a
// second, and of the 99th percentiles the least, which is what the machine disturbed least.
// Processor time is that of what runs the job (on Flink the TaskManager's, and with Beam also the
// worker pool's) and the sidecar's.
func BenchmarkBesideFlink(b *testing.B) {
	compare(b, hosts)
}

// BenchmarkWindow compares windows of the embedded runtime in the same way.
func BenchmarkWindow(b *testing.B) {
	compare(b, func(testing.TB) (all []host) {
		for _, window := range []int{1, 2, 4, 8, 16, 64} {
			all = append(all, host{name: fmt.Sprintf("embedded, window %d", window), run: func(t testing.TB, m *model, l load) figures {
				return runWindow(t, m, l, window)
			}})
		}
		return all
	})
}

func compare(b *testing.B, hosts func(testing.TB) []host) {
	m := startModel(b)
	all := hosts(b)
	const rounds = 5
	full, paced := load{records: 150_000, warm: 50_000}, load{records: 20_000, warm: 5_000, perSecond: 2000}
	fulls, paceds := make([][]figures, len(all)), make([][]figures, len(all))
	for b.Loop() {
		for n := range 1 + rounds {
			for i, h := range all {
				f := h.run(b, m, full)
				if n == 0 {
					continue // a JVM has to compile what it runs
				}
				fulls[i] = append(fulls[i], f)
				if !h.upperBound {
					paceds[i] = append(paceds[i], h.run(b, m, paced))
				}
			}
		}
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "host\tload\trecords/s\tleast\tmost\tp50 ms\tp99 ms\tleast\tCPU µs/record\tsidecar's")
	line := func(name, load string, f []figures) {
		if len(f) > 0 {
			fmt.Fprintf(w, "%s\t%s\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\n", name, load,
				median(f, figures.perSecond), least(f, figures.perSecond), most(f, figures.perSecond),
				median(f, figures.p50), median(f, figures.p99), least(f, figures.p99), median(f, figures.cpu), median(f, figures.sidecarCPU))
		}
	}
	for i, h := range all {
		line(h.name, "all at once", fulls[i])
	}
	for i, h := range all {
		line(h.name, fmt.Sprintf("%g/s", paced.perSecond), paceds[i])
	}
	w.Flush()
	// The log of a benchmark ends after ten lines.
	fmt.Printf("\nmedians of %d rounds\n%s", len(fulls[0]), table.String())
}

func sorted(all []figures, of func(figures) float64) (values []float64) {
	for _, f := range all {
		values = append(values, of(f))
	}
	slices.Sort(values)
	return values
}

func median(all []figures, of func(figures) float64) float64 { return sorted(all, of)[len(all)/2] }
func least(all []figures, of func(figures) float64) float64  { return sorted(all, of)[0] }
func most(all []figures, of func(figures) float64) float64   { return sorted(all, of)[len(all)-1] }
