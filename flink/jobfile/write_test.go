package jobfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/job/inference"
)

// writing is a bundle that writes files.
type writing struct {
	*testing.T
	fn *filesFn
}

func (w writing) begin(records ...flink.Record) {
	w.Helper()
	if err := w.fn.StartBundle(w.Context()); err != nil {
		w.Fatal(err)
	}
	for _, r := range records {
		if err := w.fn.ProcessElement(w.Context(), r); err != nil {
			w.Fatal(err)
		}
	}
}

func (w writing) finish(want string) {
	w.Helper()
	if err := w.fn.FinishBundle(w.Context()); err != nil {
		w.Fatal(err)
	}
	w.want(want)
	if n := hidden(w.T, w.fn.Dir); n > 0 {
		w.Errorf("%d files are left", n)
	}
}

func (w writing) want(want string) {
	w.Helper()
	if got := folder(w.T, w.fn.Dir); got != want {
		w.Errorf("there is\n%s\nwant\n%s", got, want)
	}
}

func TestFilesWhole(t *testing.T) {
	w := writing{t, &filesFn{Dir: t.TempDir(), Whole: true}}
	w.begin()
	w.finish("")
	w.begin(record(1, 5, "a"), record(0, 9, "x"), record(1, 6, "b"))
	w.want("") // before the end there is nothing
	if n := hidden(t, w.fn.Dir); n != 2 {
		t.Errorf("%d files are pending", n)
	}
	const first = "part-000000.jsonl: x\npart-000001.jsonl: a b"
	w.finish(first)
	// A repetition replaces.
	w.begin(record(1, 5, "c"))
	w.want(first)
	w.finish("part-000000.jsonl: x\npart-000001.jsonl: c")
	info, err := os.Stat(filepath.Join(w.fn.Dir, "part-000001.jsonl"))
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	// What is long is written before the end.
	long := strings.Repeat("y", flushAt)
	w.begin(record(2, 0, long), record(2, 1, "z"))
	w.finish("part-000000.jsonl: x\npart-000001.jsonl: c\npart-000002.jsonl: " + long + " z")
}

func TestFilesOfPartitions(t *testing.T) {
	w := writing{t, &filesFn{Dir: t.TempDir()}}
	w.begin(record(1, 5, "a"), record(1<<topicShift, 0, "t"), record(1, 6, "b"))
	const first = "part-000001-00000000000000000005.jsonl: a b\npart-4294967296-00000000000000000000.jsonl: t"
	w.finish(first)
	w.begin(record(1, 7, "c"))
	w.finish("part-000001-00000000000000000005.jsonl: a b\npart-000001-00000000000000000007.jsonl: c\npart-4294967296-00000000000000000000.jsonl: t")
}

// A bundle that fails elsewhere never ends.
func TestFilesOfAnAbandonedBundle(t *testing.T) {
	w := writing{t, &filesFn{Dir: t.TempDir(), Whole: true}}
	w.begin(record(0, 0, "a"), record(1, 0, "b"))
	w.begin(record(0, 0, "c"))
	if n := hidden(t, w.fn.Dir); n != 1 {
		t.Errorf("%d files are pending", n)
	}
	w.finish("part-000000.jsonl: c")
	w.begin(record(1, 0, "d")) // nobody ends this one either, and the worker is gone
	if err := claimFolder(w.fn.Dir, nil, false); err == nil {
		t.Error("a folder with results was taken")
	}
	put(t, filepath.Join(w.fn.Dir, markName), "x")
	if err := claimFolder(w.fn.Dir, []byte("x"), true); err != nil {
		t.Fatal(err)
	}
	if n := hidden(t, w.fn.Dir); n != 0 {
		t.Errorf("%d files are pending", n)
	}
	// The old worker lives after all: it must not make others believe that its results are there.
	wantError(t, w.fn.FinishBundle(t.Context()), "sink: ")
	w.want("part-000000.jsonl: c")
}

// Beam drops the instance of a bundle that failed. What it has left goes with it, and what others
// are at work on stays.
func TestFilesOfADroppedInstance(t *testing.T) {
	dir := t.TempDir()
	at := writing{t, &filesFn{Dir: dir, Whole: true}}
	at.begin(record(0, 0, "a"))
	for range 5 {
		writing{t, &filesFn{Dir: dir, Whole: true}}.begin(record(0, 0, "b"), record(1, 0, "b"))
	}
	for hidden(t, dir) > 1 {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	at.finish("part-000000.jsonl: a")
	at.fn = nil
	runtime.GC() // nor does it take what is visible
	if got := folder(t, dir); got != "part-000000.jsonl: a" {
		t.Errorf("there is\n%s", got)
	}
}

// A worker that has lost its TaskManager must not get in the way of whoever does its work again.
func TestFilesOfALostWorker(t *testing.T) {
	w := writing{t, &filesFn{Dir: t.TempDir(), Whole: true}}
	w.begin(record(0, 0, "a"))
	lost := errors.New("the TaskManager is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(lost)
	if err := w.fn.FinishBundle(ctx); !errors.Is(err, lost) {
		t.Errorf("the error is %v", err)
	}
	w.want("")
	if n := hidden(t, w.fn.Dir); n != 0 {
		t.Errorf("%d files are pending", n)
	}
}

func TestFilesErrors(t *testing.T) {
	w := writing{t, &filesFn{Dir: filepath.Join(t.TempDir(), "out"), Whole: true}}
	gone := func(err error) {
		t.Helper()
		if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "sink: ") {
			t.Errorf("the error is %v", err)
		}
	}
	// A folder that this worker does not see is not made anew.
	w.begin()
	gone(w.fn.ProcessElement(t.Context(), record(0, 0, "a")))
	if err := os.Mkdir(w.fn.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.begin(record(0, 0, "a"))
	if err := os.RemoveAll(w.fn.Dir); err != nil {
		t.Fatal(err)
	}
	gone(w.fn.FinishBundle(t.Context()))
	if _, err := os.Stat(w.fn.Dir); err == nil {
		t.Error("the folder is back")
	}
	// A file that cannot be written to.
	if err := os.Mkdir(w.fn.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, long := range []bool{false, true} {
		w.begin(record(0, 0, "a"))
		if err := w.fn.open[0].file.Close(); err != nil {
			t.Fatal(err)
		}
		err := error(nil)
		if long {
			err = w.fn.ProcessElement(t.Context(), record(0, 1, strings.Repeat("y", flushAt)))
		} else {
			err = w.fn.FinishBundle(t.Context())
		}
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("the error is %v", err)
		}
	}
	w.begin()
	w.finish("")
	// A name that somebody else has.
	if err := os.MkdirAll(filepath.Join(w.fn.Dir, wholeName(3), "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.begin(record(3, 0, "a"))
	wantError(t, w.fn.FinishBundle(t.Context()), "sink: rename")
	if n := hidden(t, w.fn.Dir); n != 0 {
		t.Errorf("%d files are pending", n)
	}
}

// A dead letter is the line that the embedded runtime writes.
func TestLetters(t *testing.T) {
	const letters = "  on_error: {record: dead_letter}\ndead_letter: {file: {path: failed}}\n"
	pipeLetters := pipe + "  on_error: {record: dead_letter}\ndead_letter: {kafka: {topic: failed, max_record: 1KiB}}\n"
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	for name, c := range map[string]struct {
		text, value string
		partition   bool
	}{
		"record":    {fromFiles + letters, `{"a" : 1.50}`, false},
		"text":      {fromFiles + letters, `{"a`, false},
		"bytes":     {fromFiles + letters, "\xff", false},
		"partition": {fromKafka + letters, `{"a":1}`, true},
		"long":      {pipeLetters, `{"a":"` + strings.Repeat("x", 5000) + `"}`, true},
	} {
		for class := async.Backend; class <= async.Permanent; class++ {
			t.Run(fmt.Sprintf("%s, %v", name, class), func(t *testing.T) {
				spec := load(t, c.text)
				embedded := inference.LettersOf(spec)
				if c.partition {
					embedded.Where = func(split int) (string, int32, bool) { return "in", int32(split), true }
				}
				var files splitFiles
				if !c.partition {
					embedded.File = func(int) (string, bool) { return "/in/b.jsonl", true }
					files = splitFiles{{0, "/in/a.jsonl"}, {2, "/in/b.jsonl"}, {4, "/in/c.jsonl"}}
				}
				want, err := embedded.Line(async.Failed[json.RawMessage]{
					Record: async.Record[json.RawMessage]{Value: json.RawMessage(c.value), Split: 3, Position: 9},
					Class:  class, Err: &async.RecordError{Operator: "infer", Split: 3, Position: 9, Attempts: 2, Class: class, Err: errors.New("no <good>")}, Attempts: 2, At: at,
				})
				if err != nil {
					t.Fatal(err)
				}
				fn := &letterFn{Job: textOf(t, spec), Files: files}
				if err := fn.Setup(); err != nil {
					t.Fatal(err)
				}
				in := flink.FailedRecord{Record: record(3, 9, c.value), Class: class.String(), Error: "no <good>", Attempts: 2, At: at.UnixMilli()}
				got, err := fn.ProcessElement(beam.EventTime(0), in)
				if err != nil || string(got.Value) != string(want) || got.Key != "k9" || got.Split != 3 || got.Position != 9 {
					t.Errorf("the letter is %s of %+v, %v; want\n%s", got.Value, got, err, want)
				}
			})
		}
	}
	if err := (&letterFn{Job: "{"}).Setup(); err == nil {
		t.Error("half a job is one")
	}
}
