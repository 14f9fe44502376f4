//go:build integration

package flink

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/tensor"
)

// row is a record: as the job in Java has it.
type row struct {
	number int64
	due    time.Time
	values []float32
	sum    float64 // the model's answer
}

// value is value i of a record: small whole numbers, so that their sum is exact.
func value(number int64, i int) float32 { return float32((number + int64(i)) % 256) }

// generator is a source of rows that are due one after another at a fixed rate, however late those
// before were, or as fast as they are read.
type generator struct {
	load  load
	start time.Time
	at    int64
}

func (g *generator) Splits(context.Context) ([]connector.Split, error) {
	return []connector.Split{{}}, nil
}
func (g *generator) Verify(context.Context, []connector.Split, []int64) error { return nil }
func (g *generator) Open(context.Context, connector.Split, int64) (connector.Reader[row], error) {
	g.start = time.Now()
	return g, nil
}
func (g *generator) Close() error { return nil }

// due is when a record is due.
func (g *generator) due(number int64) time.Time {
	if g.load.perSecond == 0 {
		return time.Now()
	}
	return g.start.Add(time.Duration(float64(number) / g.load.perSecond * float64(time.Second)))
}

func (g *generator) Read(ctx context.Context, dst []stream.Record[row], most int) ([]stream.Record[row], int64, error) {
	if wait := time.Until(g.due(g.at)); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return dst, g.at, ctx.Err()
		}
	}
	for ; most > 0 && g.at < int64(g.load.records); most-- {
		due := g.due(g.at)
		if due.After(time.Now()) {
			return dst, g.at, nil
		}
		r := row{number: g.at, due: due, values: make([]float32, rowWidth)}
		for i := range r.values {
			r.values[i] = value(r.number, i)
		}
		dst = append(dst, stream.Record[row]{Value: r, Time: async.NoTime, Position: g.at})
		g.at++
	}
	if g.at == int64(g.load.records) {
		return dst, g.at, io.EOF
	}
	return dst, g.at, nil
}

// codec sends a row's values and keeps the answer.
type codec struct{}

func (codec) Bind(tensor.Signature) (tensor.RowCodec[row, row], error) { return codec{}, nil }
func (codec) Encode(dst *tensor.Batch, in row) error {
	return tensor.AppendValues(dst.Column(0), in.values)
}
func (codec) Decode(in row, src *tensor.Rows, i int) (row, error) {
	in.sum, in.values = src.Output(0).Number(i, 0), nil
	return in, nil
}

// measure is a sink that checks the results and their order and keeps what they took, from when a
// record was due to when it is here. The first of them count for nothing: the job is not at its
// speed yet.
type measure struct {
	load      load
	sidecar   string
	seen      int
	latencies []time.Duration
	start     time.Time
	own       int64
	other     int64
	figures   figures
}

func (m *measure) Open(context.Context, async.Subtask) (connector.Writer[row], error) {
	return m, nil
}
func (m *measure) Committer(context.Context) (connector.Committer, error)      { return nothing{}, nil }
func (m *measure) Prepare(context.Context, int64) ([]connector.Pending, error) { return nil, nil }
func (m *measure) Close() error                                                { return nil }

func (m *measure) Write(recs []stream.Record[row]) (err error) {
	now := time.Now()
	for _, r := range recs {
		if r.Value.number != int64(m.seen) {
			return fmt.Errorf("record %d where %d is due", r.Value.number, m.seen)
		}
		var want float64
		for i := range rowWidth {
			want += float64(value(r.Value.number, i))
		}
		if r.Value.sum != want {
			return fmt.Errorf("record %d: %g, not %g", m.seen, r.Value.sum, want)
		}
		if m.seen == m.load.warm {
			m.start = now
			if m.own, m.other, err = m.ticks(); err != nil {
				return err
			}
		}
		if m.seen >= m.load.warm {
			m.latencies = append(m.latencies, now.Sub(r.Value.due))
		}
		m.seen++
	}
	if m.seen == m.load.records {
		own, other, err := m.ticks()
		if err != nil {
			return err
		}
		m.figures = newFigures(m.latencies, time.Since(m.start), own-m.own, other-m.other)
	}
	return nil
}

func (m *measure) ticks() (own, other int64, err error) {
	if own, err = ticks("self"); err != nil {
		return 0, 0, err
	}
	other, err = ticks(m.sidecar)
	return own, other, err
}

type nothing struct{}

func (nothing) Begin(context.Context, []byte) ([]byte, error) { return nil, nil }
func (nothing) Plan(s []byte, _ []connector.Pending) (next, plan []byte, err error) {
	return s, nil, nil
}
func (nothing) Commit(context.Context, []byte) error { return nil }
func (nothing) Clean(context.Context) error          { return nil }
func (nothing) Close() error                         { return nil }

// runEmbedded runs tensorferry's own runtime to its end, in this process.
func runEmbedded(t testing.TB, m *model, l load) figures {
	t.Helper()
	return runWindow(t, m, l, 0)
}

// runWindow does it with a window of so many requests; 0: the default.
func runWindow(t testing.TB, m *model, l load, window int) figures {
	t.Helper()
	sink := &measure{load: l, sidecar: strconv.Itoa(m.PID())}
	j := stream.New("beside", stream.Config{Parallelism: 1, Checkpoint: stream.CheckpointConfig{Interval: checkpoints}})
	fn := sidecar.NewAsyncFunction(sidecar.Config{Endpoint: m.endpoint, Model: "model", Window: window}, codec{})
	rows := stream.From(j, &generator{load: l})
	stream.To(stream.OrderedWait(rows, fn, async.Config{Capacity: capacity, Timeout: 10 * time.Second}), sink)
	if err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sink.seen != l.records {
		t.Fatalf("%d of %d records", sink.seen, l.records)
	}
	return sink.figures
}

// ticks is the time that a process has had from the processors, in the system's ticks.
func ticks(process string) (int64, error) {
	text, err := os.ReadFile("/proc/" + process + "/stat")
	if err != nil {
		return 0, err
	}
	return parseTicks(string(text))
}
