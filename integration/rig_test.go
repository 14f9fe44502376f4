package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

// records writes n records to a file in several splits' worth of lines, and
// returns its path and the lines that the mock's answers make of them.
func records(t *testing.T, n int) (path string, want []byte) {
	t.Helper()
	var in, out bytes.Buffer
	for i := range n {
		// A number that no float64 holds, so that copying digit for digit is seen.
		line := fmt.Sprintf(`{"id": %d, "exact": 0.1000000000000000055511151231257827%d, "x": %d`, i, i, i)
		fmt.Fprintf(&in, "%s}\n", line)
		fmt.Fprintf(&out, "%s,\"y\":%d}\n", line, 2*i)
	}
	path = filepath.Join(t.TempDir(), "in.jsonl")
	if err := os.WriteFile(path, in.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path, out.Bytes()
}

// spec is a job under test; zero values are the defaults of its parts.
type spec struct {
	in          string
	server      *sidecartest.Server
	parallelism int
	unordered   bool
	op          async.Config
	client      sidecar.Config
	interval    time.Duration
	restart     restart.Config
	store       stream.CheckpointStore
	mutate      func(*stream.Config)
}

// job is a job that was built, with what can be seen of it.
type job struct {
	*stream.Job
	out   string
	store *watchedStore
	sink  *markingSink
	watch *events
}

func build(t *testing.T, s spec) *job {
	t.Helper()
	return buildAt(t, s, filepath.Join(t.TempDir(), "out"))
}

func buildAt(t *testing.T, s spec, out string) *job {
	t.Helper()
	if s.store == nil {
		s.store = stream.NewMemoryStore()
	}
	k := &job{out: out, store: &watchedStore{CheckpointStore: s.store}, watch: &events{}}
	cfg := stream.Config{
		Parallelism: s.parallelism, Restart: s.restart, Observer: k.watch,
		Checkpoint: stream.CheckpointConfig{Interval: s.interval, Store: k.store},
	}
	if s.mutate != nil {
		s.mutate(&cfg)
	}
	k.Job = stream.New("job", cfg)
	src := file.NewSource(file.SourceConfig[json.RawMessage]{Decode: file.Raw, Paths: []string{s.in}, SplitSize: 8 << 10})
	if s.server != nil {
		s.client.Endpoint, s.client.Dialer, s.client.Model = s.server.Endpoint(), s.server.Dialer(), s.server.Model()
	}
	fn := sidecar.NewAsyncFunction(s.client, jsoncodec.New(jsoncodec.Mapping{}))
	wait := stream.OrderedWait[json.RawMessage, json.RawMessage]
	if s.unordered {
		wait = stream.UnorderedWait[json.RawMessage, json.RawMessage]
	}
	k.sink = &markingSink{Sink: file.NewSink(file.SinkConfig[json.RawMessage]{Dir: out, Encode: file.RawLine}), server: s.server}
	stream.To(wait(stream.From(k.Job, src), fn, s.op), k.sink)
	return k
}

// output is what `cat out/part-*` prints.
func output(t *testing.T, dir string) []byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "part-*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	var all []byte
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

func sameBytes(t *testing.T, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	g, w := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range min(len(g), len(w)) {
		if !bytes.Equal(g[i], w[i]) {
			t.Fatalf("line %d of %d (want %d lines):\ngot  %s\nwant %s", i+1, len(g)-1, len(w)-1, g[i], w[i])
		}
	}
	t.Fatalf("%d lines, want %d", len(g)-1, len(w)-1)
}

func sameLines(t *testing.T, got, want []byte) {
	t.Helper()
	sorted := func(b []byte) []byte {
		lines := bytes.Split(b, []byte("\n"))
		slices.SortFunc(lines, bytes.Compare)
		return bytes.Join(lines, []byte("\n"))
	}
	sameBytes(t, sorted(got), sorted(want))
}

// watchedStore keeps every checkpoint it was given.
type watchedStore struct {
	stream.CheckpointStore
	mu   sync.Mutex
	seen []*checkpoint.Snapshot
}

func (w *watchedStore) Write(ctx context.Context, s *checkpoint.Snapshot) error {
	err := w.CheckpointStore.Write(ctx, s)
	if err == nil {
		w.mu.Lock()
		w.seen = append(w.seen, s)
		w.mu.Unlock()
	}
	return err
}

func (w *watchedStore) snapshots() []*checkpoint.Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// entries counts the parts with records in flight in a checkpoint.
func entries(s *checkpoint.Snapshot) int {
	n := 0
	for _, sec := range s.Sections {
		for _, p := range sec.Parts {
			if sec.Kind == "async" && p.Name == "entries" && len(p.Data) > 0 {
				n++
			}
		}
	}
	return n
}

// events keeps what the job tells its observer, and when.
type events struct {
	mu  sync.Mutex
	all []timed
}

type timed struct {
	at    time.Time
	event stream.Event
}

func (e *events) Observe(ev stream.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, timed{time.Now(), ev})
}

// of returns the events of one type.
func of[E stream.Event](e *events) (found []E, at []time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.all {
		if ev, ok := t.event.(E); ok {
			found, at = append(found, ev), append(at, t.at)
		}
	}
	return found, at
}

// barrierMark is a barrier at a sink: where it stands in the sidecar's own sequence.
type barrierMark struct {
	checkpoint int64
	subtask    int
	mark       int64
}

// markingSink notes when each barrier reaches the sink. The sink runs in the
// operator's goroutine, so that is the moment at which the barrier leaves the operator.
type markingSink struct {
	connector.Sink[json.RawMessage]
	server *sidecartest.Server
	mu     sync.Mutex
	marks  []barrierMark
}

func (m *markingSink) Open(ctx context.Context, sub async.Subtask) (connector.Writer[json.RawMessage], error) {
	w, err := m.Sink.Open(ctx, sub)
	return &markingWriter{w, m, sub.Index}, err
}

type markingWriter struct {
	connector.Writer[json.RawMessage]
	sink    *markingSink
	subtask int
}

func (w *markingWriter) Prepare(ctx context.Context, n int64) ([]connector.Pending, error) {
	if w.sink.server != nil {
		mark := w.sink.server.Mark()
		w.sink.mu.Lock()
		w.sink.marks = append(w.sink.marks, barrierMark{n, w.subtask, mark})
		w.sink.mu.Unlock()
	}
	return w.Writer.Prepare(ctx, n)
}

// subtaskOf reads the subtask out of a request id, OPERATOR/SUBTASK.ATTEMPT-NUMBER.
func subtaskOf(t *testing.T, id string) int {
	t.Helper()
	var sub, attempt, n int
	if _, err := fmt.Sscanf(id[bytes.IndexByte([]byte(id), '/')+1:], "%d.%d-%d", &sub, &attempt, &n); err != nil {
		t.Fatalf("request id %q: %v", id, err)
	}
	return sub
}

func seeds(t *testing.T, n int) []uint64 {
	t.Helper()
	first := rand.Uint64N(1 << 32)
	t.Logf("seeds from %d", first)
	var s []uint64
	for i := range n {
		s = append(s, first+uint64(i))
	}
	return s
}

// recordError is the failure of a record within err.
func recordError(t *testing.T, err error) *async.RecordError {
	t.Helper()
	re, ok := errors.AsType[*async.RecordError](err)
	if !ok {
		t.Fatalf("no RecordError in %v", err)
	}
	return re
}

// readPrefix returns the first n bytes of a file.
func readPrefix(t *testing.T, path string, n int64) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || int64(len(b)) < n {
		t.Fatalf("%d bytes of %s: %v", n, path, err)
	}
	return b[:n]
}
