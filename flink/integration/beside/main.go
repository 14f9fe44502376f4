//go:build integration

// Command beside is the job of the comparison with Flink's own operator, as a pipeline on Flink,
// and the worker pool that it runs in. The module that compares cannot import this one, so it
// starts this program.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/flink/submit"
	"github.com/tensorferry/tensorferry/flink/worker"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/tensor"
)

// Row is a record: as the other jobs of the comparison have it.
type Row struct {
	Number int64
	Due    int64 // in nanoseconds since this process began
	Values []float32
	Sum    float64 // the model's answer
}

// began is when this process did. Source and sink are both in it, so that they read one clock.
var began = time.Now()

func now() int64 { return int64(time.Since(began)) }

// value is value i of a record: small whole numbers, so that their sum is exact.
func value(number int64, i int) float32 { return float32((number + int64(i)) % 256) }

// Work is what the job is told.
type Work struct {
	Endpoint  string
	Records   int64
	Warm      int64 // the first of them, which are not measured
	Width     int
	PerSecond float64 // 0: as fast as the job takes them
	Capacity  int
	// Others are the processes that run the job beside this one, Sidecar is the model's.
	Others  string
	Sidecar string
	// Result is the file for the figures; its name is another one in each run.
	Result string
}

// Function implements flink.Maker.
func (w Work) Function() (async.Function[Row, Row], error) {
	return sidecar.NewAsyncFunction(sidecar.Config{Endpoint: w.Endpoint, Model: "model"}, codec{}), nil
}

// codec sends a row's values and keeps the answer.
type codec struct{}

func (codec) Bind(tensor.Signature) (tensor.RowCodec[Row, Row], error) { return codec{}, nil }
func (codec) Encode(dst *tensor.Batch, in Row) error {
	return tensor.AppendValues(dst.Column(0), in.Values)
}
func (codec) Decode(in Row, src *tensor.Rows, i int) (Row, error) {
	in.Sum, in.Values = src.Output(0).Number(i, 0), nil
	return in, nil
}

// encodeRow and decodeRow are for the edges of a stage. Source, operator and sink are one stage, so
// that rows pass between them as they are.
func encodeRow(r Row) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(r.Number))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Due))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(r.Sum))
	for _, v := range r.Values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func decodeRow(b []byte) (r Row, err error) {
	const head = 3 * 8
	if len(b) < head || len(b)%4 != 0 {
		return r, fmt.Errorf("a row of %d bytes", len(b))
	}
	r.Number, r.Due = int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))
	r.Sum = math.Float64frombits(binary.LittleEndian.Uint64(b[16:]))
	for rest := range slices.Chunk(b[head:], 4) {
		r.Values = append(r.Values, math.Float32frombits(binary.LittleEndian.Uint32(rest)))
	}
	return r, nil
}

func init() {
	beam.RegisterCoder(reflect.TypeFor[Row](), encodeRow, decodeRow)
	flink.Register[Row, Row, Work]()
	register.DoFn4x2[context.Context, *sdf.LockRTracker, []byte, func(beam.EventTime, Row), sdf.ProcessContinuation, error](&generateFn{})
	register.DoFn1x1[Row, error](&measureFn{})
}

// slice is how long records are generated before a bundle may end, as in the source of job files
// that reads Kafka.
const slice = 200 * time.Millisecond

// starts says when each run's first record was due.
var starts sync.Map

// generateFn is a source of rows that are due one after another at a fixed rate, however late those
// before were, or as fast as they are taken. It is what the source of job files that reads Kafka
// is: a splittable DoFn, so that the position is in Flink's checkpoints.
type generateFn struct{ Work string }

func (f *generateFn) work() (w Work, err error) {
	err = json.Unmarshal([]byte(f.Work), &w)
	return w, err
}

// CreateInitialRestriction is all records.
func (f *generateFn) CreateInitialRestriction([]byte) offsetrange.Restriction {
	w, err := f.work()
	if err != nil {
		panic(err) // this program wrote it
	}
	return offsetrange.Restriction{End: w.Records}
}

// SplitRestriction does not: the records are one sequence.
func (f *generateFn) SplitRestriction(_ []byte, r offsetrange.Restriction) []offsetrange.Restriction {
	return []offsetrange.Restriction{r}
}

// RestrictionSize is what is left.
func (f *generateFn) RestrictionSize(_ []byte, r offsetrange.Restriction) float64 {
	return float64(r.End - r.Start)
}

// CreateTracker returns what keeps the position.
func (f *generateFn) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(&tracker{offsetrange.NewTracker(r)})
}

// tracker is that of an offset range which is not divided, but for what is resumed.
type tracker struct{ *offsetrange.Tracker }

// TrySplit gives everything away that was not claimed, as a source that asks to be resumed does,
// and nothing else.
func (t *tracker) TrySplit(fraction float64) (primary, residual any, err error) {
	if fraction > 0 {
		return t.GetRestriction(), nil, nil
	}
	return t.Tracker.TrySplit(0)
}

// IsBounded says that the job is not over with the records: it is cancelled then.
func (t *tracker) IsBounded() bool { return false }

// ProcessElement generates for a while.
func (f *generateFn) ProcessElement(ctx context.Context, rt *sdf.LockRTracker, _ []byte, emit func(beam.EventTime, Row)) (sdf.ProcessContinuation, error) {
	w, err := f.work()
	if err != nil {
		return nil, err
	}
	first, _ := starts.LoadOrStore(w.Result, now())
	due := func(number int64) int64 {
		if w.PerSecond == 0 {
			return now()
		}
		return first.(int64) + int64(float64(number)/w.PerSecond*float64(time.Second))
	}
	over := now() + int64(slice)
	for at := rt.GetRestriction().(offsetrange.Restriction).Start; at < w.Records; at++ {
		if wait := due(at) - now(); wait > 0 {
			select {
			case <-time.After(time.Duration(wait)):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if now() >= over {
			return sdf.ResumeProcessingIn(0), nil
		}
		if !rt.TryClaim(at) {
			return nil, errors.New("the runner has given a part of the records away")
		}
		r := Row{Number: at, Due: due(at), Values: make([]float32, w.Width)}
		for i := range r.Values {
			r.Values[i] = value(at, i)
		}
		emit(mtime.MinTimestamp, r)
	}
	rt.TryClaim(w.Records) // the end
	return sdf.StopProcessing(), nil
}

// measures are those of the runs, by the names of their results.
var measures sync.Map

// measureFn is a sink that checks the results and their order and writes a file with what they
// took.
type measureFn struct{ Work string }

// ProcessElement takes a result. At parallelism 1 there is one bundle at a time.
func (f *measureFn) ProcessElement(r Row) error {
	at, ok := measures.Load(f.Work)
	if !ok {
		m := &measure{}
		if err := json.Unmarshal([]byte(f.Work), &m.Work); err != nil {
			return err
		}
		at, _ = measures.LoadOrStore(f.Work, m)
	}
	return at.(*measure).take(r)
}

type measure struct {
	Work

	seen      int64
	latencies []int64
	start     int64
	own       int64
	sidecar   int64
}

// take does to a result what the sinks of the other jobs do. The first of them count for nothing:
// the job is not at its speed yet.
func (m *measure) take(r Row) (err error) {
	at := now()
	if r.Number != m.seen {
		return fmt.Errorf("record %d where %d is due", r.Number, m.seen)
	}
	var want float64
	for i := range m.Width {
		want += float64(value(r.Number, i))
	}
	if r.Sum != want {
		return fmt.Errorf("record %d: %g, not %g", m.seen, r.Sum, want)
	}
	if m.seen == m.Warm {
		m.start = at
		if m.own, m.sidecar, err = m.ticks(); err != nil {
			return err
		}
	}
	if m.seen >= m.Warm {
		m.latencies = append(m.latencies, at-r.Due)
	}
	m.seen++
	if m.seen < m.Records {
		return nil
	}
	took := now() - m.start
	own, sidecar, err := m.ticks()
	if err != nil {
		return err
	}
	slices.Sort(m.latencies)
	quantile := func(q float64) int64 { return m.latencies[int(q*float64(len(m.latencies)-1))] }
	text, err := json.Marshal(map[string]int64{
		"Records": int64(len(m.latencies)), "Nanos": took, "P50": quantile(0.5), "P99": quantile(0.99),
		"Ticks": own - m.own, "SidecarTicks": sidecar - m.sidecar,
	})
	if err != nil {
		return err
	}
	// Whoever waits for the file reads it whole.
	if err := os.WriteFile(m.Result+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(m.Result+".new", m.Result)
}

// ticks is the time that the job's processes and the sidecar have had from the processors, in the
// system's ticks.
func (m *measure) ticks() (own, sidecar int64, err error) {
	for _, process := range append(strings.Split(m.Others, ","), "self") {
		n, err := ticks(process)
		if err != nil {
			return 0, 0, err
		}
		own += n
	}
	sidecar, err = ticks(m.Sidecar)
	return own, sidecar, err
}

func ticks(process string) (int64, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", process, "stat"))
	if err != nil {
		return 0, err
	}
	// The name is in parentheses and may contain anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
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

// run submits the job and does not wait for it.
func run(ctx context.Context, w Work, o submit.Options) error {
	text, err := json.Marshal(w)
	if err != nil {
		return err
	}
	p, s := beam.NewPipelineWithRoot()
	rows := beam.ParDo(s.Scope("generate"), &generateFn{string(text)}, beam.Impulse(s))
	answers, _, err := flink.TryInfer[Row, Row](s, rows, w, flink.Config{
		Async: async.Config{Capacity: w.Capacity, Timeout: 10 * time.Second},
	})
	if err != nil {
		return err
	}
	beam.ParDo0(s.Scope("measure"), &measureFn{string(text)}, answers)
	j, err := submit.Submit(ctx, p, o)
	if err != nil {
		return err
	}
	return j.Close()
}

// serve is a worker pool, until this process is ended.
func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	pool := worker.New(slog.Default())
	slog.Info("the worker pool is ready")
	return pool.Serve(l)
}

func main() {
	var w Work
	o := submit.Options{Name: "beside", Parallelism: 1, Restarts: submit.NoRestart}
	listen := flag.String("listen", "", "serve workers at this address; else submit the job")
	flag.StringVar(&o.JobServer, "job-server", "", "Beam's job server")
	flag.StringVar(&o.WorkerPool, "worker-pool", "", "the worker pool")
	flag.DurationVar(&o.CheckpointInterval, "checkpoint", 0, "time between checkpoints")
	flag.DurationVar(&o.MaxBundleTime, "bundle-time", 0, "how long a bundle takes; 0: the default")
	flag.StringVar(&w.Endpoint, "endpoint", "", "the model's")
	flag.StringVar(&w.Sidecar, "sidecar-pid", "", "the model's process")
	flag.StringVar(&w.Others, "other-pids", "", "the processes that run the job beside the workers, with commas between")
	flag.StringVar(&w.Result, "result", "", "the file for the figures")
	flag.Int64Var(&w.Records, "records", 0, "how many")
	flag.Int64Var(&w.Warm, "warm", 0, "how many of them are not measured")
	flag.IntVar(&w.Width, "width", 0, "values in a record")
	flag.Float64Var(&w.PerSecond, "per-second", 0, "records that are due in a second; 0: as fast as they are taken")
	flag.IntVar(&w.Capacity, "capacity", 0, "records in flight")
	flag.Parse()
	beam.Init()
	var err error
	if *listen != "" {
		err = serve(*listen)
	} else {
		err = run(context.Background(), w, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
