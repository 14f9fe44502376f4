package jobfile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/flink"
)

// What a job writes is never its own input, and a pattern that means something else elsewhere is
// none.
func TestCheckInput(t *testing.T) {
	const letters = "  on_error: {record: dead_letter}\n"
	for name, c := range map[string]struct{ text, old, by, want string }{
		"results":           {fromFiles, "path: in.jsonl", "path: out/*.jsonl", "job.yaml:2:17: source.file.path: file: out/*.jsonl matches what the job itself writes into out"},
		"results, deep":     {fromFiles, "path: in.jsonl", "path: '**'", "source.file.path: "},
		"dead letters":      {fromFiles + letters + "dead_letter: {file: {path: bad/new}}\n", "path: in.jsonl", "path: bad/**/*.jsonl", "source.file.path: "},
		"a mark":            {fromFiles, "path: in.jsonl", "path: out/.*", "source.file.path: "},
		"beside":            {fromFiles, "path: in.jsonl", "path: out/in-*.jsonl", ""},
		"another folder":    {fromFiles, "path: in.jsonl", "path: in/**/*.jsonl", ""},
		"a pattern":         {fromFiles, "path: in.jsonl", "path: in/**.jsonl", "source.file.path: file: the pattern "},
		"a pattern, braces": {fromFiles, "path: in.jsonl", "path: 'in/{a,b}*'", "alternatives in braces"},
		"a topic":           {pipe, "topic: in,", "topic: out,", "job.yaml:3:16: sink.kafka.topic: kafka: the topic out is the job's own output"},
		"a topic's pattern": {pipe, "topic: in,", "pattern: 'o.*',", "sink.kafka.topic: "},
		"a letter's topic":  {pipe + letters + "dead_letter: {kafka: {topic: in}}\n", "topic: in,", "topic: in,", "dead_letter.kafka.topic: "},
	} {
		t.Run(name, func(t *testing.T) {
			got := faults(load(t, strings.Replace(c.text, c.old, c.by, 1)))
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("faults are\n%s\nwant %q", got, c.want)
			}
		})
	}
}

// The names that are told of are those that are made.
func TestFileNames(t *testing.T) {
	for _, name := range []string{wholeName(0), wholeName(123456789), fmt.Sprintf("part-%06d-%020d.jsonl", 1<<40, 1<<40), pendingPrefix + "123", markName} {
		n := 0
		for _, p := range files {
			if ok, err := filepath.Match(p, name); ok && err == nil {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s is %d of %v", name, n, files)
		}
	}
}

// A folder stays a job's whatever else descriptions of splits say by now.
func TestMarkOfEarlierVersions(t *testing.T) {
	fn, splits := input(t, 1000, false)
	all, err := fn.src.Splits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	for _, s := range splits {
		var v map[string]any
		if err := json.Unmarshal(s.Data, &v); err != nil {
			t.Fatal(err)
		}
		data := fmt.Sprintf(`{"path":%q,"size":%.0f,"start":%.0f,"end":%.0f,"prefix":%q}`, v["path"], v["size"], v["start"], v["end"], v["prefix"])
		fmt.Fprintf(h, "%d %d %s\n", s.Start, len(data), data)
	}
	job, err := arrived(fn.Job)
	if err != nil {
		t.Fatal(err)
	}
	if mark, err := markOf(&job.Spec, all); err != nil || mark.Input != hex.EncodeToString(h.Sum(nil)) {
		t.Errorf("%s, %v", mark.Input, err)
	}
}

// A file that changes between two of its splits is not read on.
func TestReadAFileThatChanges(t *testing.T) {
	for name, c := range map[string]struct {
		change func(path string, text []byte) error
		want   string
	}{
		"nothing": {func(string, []byte) error { return nil }, ""},
		"appended to": {func(path string, text []byte) error {
			return os.WriteFile(path, append(text, "{}\n"...), 0o600)
		}, ""},
		"rewritten": {func(path string, text []byte) error {
			return os.WriteFile(path, text, 0o600)
		}, "was written to while the job ran"},
		"replaced": {func(path string, text []byte) error {
			if err := os.WriteFile(path+".new", text, 0o600); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}, "was replaced by another file"},
		"cut short": {func(path string, text []byte) error {
			return os.WriteFile(path, text[:len(text)/2], 0o600)
		}, "has shrunk to"},
	} {
		t.Run(name, func(t *testing.T) {
			fn, splits := input(t, 20_000, false)
			path := inputPath(t, fn)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, fn, splits[:2])
			if err := c.change(path, text); err != nil {
				t.Fatal(err)
			}
			err = fn.ProcessElement(t.Context(), splits[2], func(beam.EventTime, flink.Record) {})
			if c.want != "" {
				wantError(t, err, "source: file: "+path+" "+c.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// ending is a source whose reader ends with an error.
type ending struct {
	connector.Source[json.RawMessage]
	err error
}

func (s ending) Verify(context.Context, []connector.Split, []int64) error { return nil }
func (s ending) Open(context.Context, connector.Split, int64) (connector.Reader[json.RawMessage], error) {
	return s, nil
}
func (s ending) Read(_ context.Context, dst []async.Record[json.RawMessage], _ int) ([]async.Record[json.RawMessage], int64, error) {
	return dst, 0, s.err
}
func (s ending) Close() error { return nil }

// Only io.EOF itself is an end.
func TestReadEnds(t *testing.T) {
	fn, splits := input(t, 10, false)
	for _, err := range []error{io.EOF, fmt.Errorf("the disk: %w", io.EOF), io.ErrUnexpectedEOF, errors.Join(io.EOF)} {
		fn.src = ending{err: err}
		got := fn.ProcessElement(t.Context(), splits[0], func(beam.EventTime, flink.Record) {})
		if (got == nil) != (err == io.EOF) {
			t.Errorf("%v ends as %v", err, got)
		}
	}
}
