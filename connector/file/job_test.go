package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

var _ stream.CheckpointStore = (*checkpoint.Store)(nil)

// published is the bytes of the part files, in the order of their names.
func published(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "part-*"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(data)
	}
	return b.String()
}

// Whole jobs with a real folder of checkpoints: a run that is broken off twice
// and resumed at another parallelism, and one that takes its place, give the
// input's bytes.
func TestJobIsResumedAtAnyParallelism(t *testing.T) {
	var input strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&input, "{\"id\":%d}\n", i)
	}
	source := tempFile(t, "in.jsonl", input.String())
	out := filepath.Join(t.TempDir(), "out")
	run := func(parallelism, breakAt int, begin func(*checkpoint.Store) (*checkpoint.Run, error)) error {
		store, err := checkpoint.Open(filepath.Join(out, ".checkpoints"), checkpoint.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		r, err := begin(store)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		j := stream.New("job", stream.Config{
			Parallelism: parallelism, RunID: r.ID, Resume: r.Restore, LastID: r.LastID, Previous: r.Previous,
			Checkpoint: stream.CheckpointConfig{Interval: 1, Store: store},
		})
		var seen atomic.Int64
		records := stream.Map(
			stream.From(j, NewSource(SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{source}, SplitSize: 5000})),
			func(v json.RawMessage) (json.RawMessage, error) {
				if seen.Add(1) == int64(breakAt) {
					cancel(errors.New("broken off"))
				}
				return v, nil
			})
		stream.To(records, NewSink(SinkConfig[json.RawMessage]{Encode: RawLine, Dir: out, Job: "job"}))
		return j.Run(ctx)
	}
	resume := func(s *checkpoint.Store) (*checkpoint.Run, error) { return s.Resume("job") }
	for _, p := range []int{2, 1} {
		if err := run(p, 700, resume); err == nil || !strings.Contains(err.Error(), "broken off") {
			t.Fatalf("at parallelism %d: %v", p, err)
		}
	}
	if err := run(4, 0, resume); err != nil {
		t.Fatal(err)
	}
	if got := published(t, out); got != input.String() {
		t.Fatalf("resumed: %d bytes; want the input's %d", len(got), input.Len())
	}
	if err := run(3, 0, func(s *checkpoint.Store) (*checkpoint.Run, error) { return s.Start("job") }); err != nil {
		t.Fatal(err)
	}
	if got := published(t, out); got != input.String() {
		t.Fatalf("run again: %d bytes; want the input's %d", len(got), input.Len())
	}
	left, err := filepath.Glob(filepath.Join(out, pendingPrefix+"*"))
	if err != nil || left != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A line that is not a record ends the job at once, since a restart would only meet it again.
func TestABadLineEndsTheJob(t *testing.T) {
	source := tempFile(t, "in.jsonl", "{}\nnope\n{}\n")
	j := stream.New("job", stream.Config{Restart: restart.Config{Strategy: restart.ExponentialDelay}})
	stream.To(stream.From(j, rawSource(source)), rawSink(filepath.Join(t.TempDir(), "out")))
	err := j.Run(ctx)
	bad, ok := errors.AsType[*LineError](err)
	if !ok || bad.Line != 2 || !strings.Contains(err.Error(), source+", line 2 (byte 3): ") {
		t.Fatal(err)
	}
}
