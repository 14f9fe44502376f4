package jobfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"

	"github.com/tensorferry/tensorferry/flink"
)

// input writes a job with n records, cut into splits, and returns the reader of it and the splits.
func input(t *testing.T, n int, done bool) (*readFn, []split) {
	t.Helper()
	dir := t.TempDir()
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "{\"n\":%d}\n", i)
	}
	path := filepath.Join(dir, "in.jsonl")
	put(t, path, text.String())
	// So that a change shows, however long the clock's ticks are.
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	spec := loadIn(t, dir, strings.Replace(fromFiles, "in.jsonl}", "in.jsonl, split_size: 1KiB}", 1))
	fn := &readFn{Job: textOf(t, spec)}
	if done {
		fn.Done = spec.Sink.File.Path
		if err := os.Mkdir(fn.Done, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := fn.Setup(); err != nil {
		t.Fatal(err)
	}
	all, err := fn.src.Splits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := &splitsFn{}
	for i, s := range all {
		first.Splits = append(first.Splits, split{Index: int64(i), Data: s.Data, Start: s.Start})
	}
	var out []split
	first.ProcessElement(nil, func(s split) {
		b, err := encodeSplit(s)
		if err == nil {
			s, err = decodeSplit(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	})
	return fn, out
}

// inputPath is the file that a reader reads.
func inputPath(t *testing.T, fn *readFn) string {
	t.Helper()
	s, err := arrived(fn.Job)
	if err != nil {
		t.Fatal(err)
	}
	return s.Spec.Source.File.Paths[0]
}

// readAll reads splits, checks their records' places, and returns how many records there are of
// each.
func readAll(t *testing.T, fn *readFn, splits []split) (values string, counts []int) {
	t.Helper()
	for _, s := range splits {
		n, last := 0, s.Start-1
		err := fn.ProcessElement(t.Context(), s, func(at beam.EventTime, r flink.Record) {
			if r.Split != s.Index || r.Position <= last || at != mtime.MinTimestamp {
				t.Errorf("split %d, behind position %d: %+v at %v", s.Index, last, r, at)
			}
			n, last = n+1, r.Position
			values += string(r.Value)
		})
		if err != nil {
			t.Fatal(err)
		}
		counts = append(counts, n)
	}
	return values, counts
}

func TestReadSplits(t *testing.T) {
	const n = 1000
	fn, splits := input(t, n, true)
	values, counts := readAll(t, fn, splits)
	var want strings.Builder
	for i := range n {
		fmt.Fprintf(&want, "{\"n\":%d}", i)
	}
	if values != want.String() || len(splits) < 5 {
		t.Errorf("%d splits, of %v records: %.300s", len(splits), counts, values)
	}
	// Those that have results are not read again.
	for _, i := range []int{1, 3} {
		put(t, filepath.Join(fn.Done, wholeName(int64(i))), "")
		counts[i] = 0
	}
	if _, again := readAll(t, fn, splits); fmt.Sprint(again) != fmt.Sprint(counts) {
		t.Errorf("%v records were read; want %v", again, counts)
	}
	fn.Done = ""
	if all, _ := readAll(t, fn, splits); all != values {
		t.Error("not all is read again")
	}
}

func TestReadErrors(t *testing.T) {
	fn, splits := input(t, 1000, true)
	read := func(s split) error {
		return fn.ProcessElement(t.Context(), s, func(beam.EventTime, flink.Record) {})
	}
	if err := (&readFn{Job: "{"}).Setup(); err == nil {
		t.Error("half a job is one")
	}
	wantError(t, read(split{Data: []byte("{")}), "source: ")
	// A folder that cannot be looked into does not mean that there are no results.
	folder := fn.Done
	fn.Done = filepath.Join(folder, "x")
	put(t, fn.Done, "a file")
	wantError(t, read(splits[0]), "source: cannot tell whether split 0 has results: ")
	fn.Done = folder
	path := inputPath(t, fn)
	put(t, path, strings.Repeat("x", 10))
	wantError(t, read(splits[2]), path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantError(t, read(splits[2]), path)
}

// Another file of the same name is not read: one that has replaced the first while the job ran, or
// that of another machine.
func TestReadAnotherFile(t *testing.T) {
	fn, splits := input(t, 1000, false)
	dir := t.TempDir()
	fn.Again = []string{dir}
	put(t, filepath.Join(dir, wholeName(1)), "earlier\n")
	path := inputPath(t, fn)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, path, strings.Repeat("{\"n\":[2,2,2]}\n", 1000))
	err = fn.ProcessElement(t.Context(), splits[1], func(beam.EventTime, flink.Record) { t.Fatal("a record of another file") })
	wantError(t, err, "source: file: "+path+" is not the file that was being read")
	if got := folder(t, dir); got != "part-000001.jsonl: earlier" {
		t.Errorf("there is\n%s", got)
	}
	// One that has grown is the same.
	put(t, path, string(before)+"{}\n")
	readAll(t, fn, splits)
}

// Of a split that is read again nothing stays that an earlier attempt has made.
func TestReadAgain(t *testing.T) {
	fn, splits := input(t, 1000, false)
	fn.Again = []string{t.TempDir(), t.TempDir()}
	for _, dir := range fn.Again {
		put(t, filepath.Join(dir, wholeName(1)), "of split 1\n")
		put(t, filepath.Join(dir, wholeName(2)), "of split 2\n")
	}
	for i, s := range splits[:2] {
		err := fn.ProcessElement(t.Context(), s, func(beam.EventTime, flink.Record) {
			for _, dir := range fn.Again { // before the first record
				if _, err := os.Stat(filepath.Join(dir, wholeName(s.Index))); err == nil {
					t.Fatal("the file of the earlier attempt is there")
				}
			}
		})
		if err != nil {
			t.Errorf("split %d: %v", i, err)
		}
	}
	for _, dir := range fn.Again {
		if got := folder(t, dir); got != "part-000002.jsonl: of split 2" {
			t.Errorf("there is\n%s", got)
		}
	}
	// What cannot be removed would be taken for this attempt's.
	if err := os.MkdirAll(filepath.Join(fn.Again[1], wholeName(0), "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := fn.ProcessElement(t.Context(), splits[0], func(beam.EventTime, flink.Record) { t.Fatal("a record") })
	wantError(t, err, "source: cannot remove a file of an earlier attempt at split 0: ")
}

// A pipeline has every split in it, so there cannot be any number of them.
func TestTooManySplits(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "in.jsonl"), strings.Repeat(strings.Repeat("x", 63)+"\n", 16*(maxSplits+1)))
	spec := loadIn(t, dir, strings.Replace(fromFiles, "in.jsonl}", "in.jsonl, split_size: 1KiB}", 1))
	wantError(t, Build(t.Context(), beam.NewPipeline(), spec, false), "job.yaml:2:")
	wantError(t, Build(t.Context(), beam.NewPipeline(), spec, false), "source.file.split_size: 20001 splits; want at most 20000")
	if _, err := os.Stat(spec.Sink.File.Path); err == nil {
		t.Error("a folder was made for a job that was refused")
	}
}

func TestNoInput(t *testing.T) {
	wantError(t, Build(t.Context(), beam.NewPipeline(), load(t, fromFiles), false), "job.yaml:2:17: source.file.path: ")
}
