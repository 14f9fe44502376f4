package file

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/fsx"
	"github.com/tensorferry/tensorferry/internal/simfs"
)

func TestPartNamesSortAsNumbers(t *testing.T) {
	ns := []int64{0, 1, 9, 10, 99998, 99999, 100000, 100001, 999999, 1000000, 12345678, 1 << 40, 1<<63 - 1}
	var names []string
	for _, split := range ns {
		for _, n := range ns {
			name := partName(int(split), n)
			names = append(names, name)
			if s, m, ok := parsePart(name); !ok || int64(s) != split || m != n {
				t.Errorf("%s reads as %d, %d, %v", name, s, m, ok)
			}
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("not in the order of numbers: %v", names)
	}
	// Where punctuation is left out of comparisons, as some locales do, the order is the same.
	if !slices.IsSortedFunc(names, func(a, b string) int {
		return strings.Compare(strings.ReplaceAll(a, "-", ""), strings.ReplaceAll(b, "-", ""))
	}) {
		t.Error("the order depends on the hyphens")
	}
	if names[0] != "part-00000-00000.jsonl" {
		t.Error(names[0])
	}
	for _, name := range []string{"part-1-00000.jsonl", "part-00000-000000.jsonl", "part-00000-b100000.jsonl", "part-00000.jsonl",
		"part--.jsonl", "part-00000-00000.json", "part-00000-00000-00000.jsonl", "part-00000--0001.jsonl", "part-00000-+0001.jsonl"} {
		if _, _, ok := parsePart(name); ok {
			t.Errorf("%s passes for a part", name)
		}
	}
}

// opened is a sink with its committer and one writer, on a disk.
type opened struct {
	d     *simfs.Disk
	w     connector.Writer[json.RawMessage]
	c     connector.Committer
	state []byte
}

func openSink(t *testing.T, c SinkConfig[json.RawMessage]) *opened {
	t.Helper()
	o := &opened{}
	if c.fs == nil {
		o.d = simfs.New()
		c.fs = o.d
	} else {
		o.d, _ = c.fs.(*simfs.Disk) // nil: something stands in front of it
	}
	c.Dir, c.Encode = "out", RawLine
	s := NewSink(c)
	var err error
	if o.c, err = s.Committer(ctx); err != nil {
		t.Fatal(err)
	}
	if o.state, err = o.c.Begin(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if o.w, err = s.Open(ctx, async.Subtask{Run: "run/1", Attempt: 2, Index: 3}); err != nil {
		t.Fatal(err)
	}
	return o
}

func raw(split int, values ...string) (recs []async.Record[json.RawMessage]) {
	for i, v := range values {
		recs = append(recs, async.Record[json.RawMessage]{Value: json.RawMessage(v), Split: split, Position: int64(i)})
	}
	return recs
}

func (o *opened) write(t *testing.T, recs ...async.Record[json.RawMessage]) {
	t.Helper()
	if err := o.w.Write(recs); err != nil {
		t.Fatal(err)
	}
}

func (o *opened) plan(t *testing.T) []byte {
	t.Helper()
	pending, err := o.w.Prepare(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	var plan []byte
	if o.state, plan, err = o.c.Plan(o.state, pending); err != nil {
		t.Fatal(err)
	}
	return plan
}

// files returns the files of the folder, except its lock.
func (o *opened) files() []string {
	files := o.d.Files("out")
	delete(files, lockName)
	return slices.Sorted(maps.Keys(files))
}

// One file a split and checkpoint, however the splits alternate and however few
// files may be open.
func TestManySplitsAndFewFiles(t *testing.T) {
	for _, most := range []int{1, 2, 7, 100} {
		o := openSink(t, SinkConfig[json.RawMessage]{MaxOpen: most})
		var want strings.Builder
		for checkpoint := range 2 {
			for i := range 5 {
				for split := range 20 {
					o.write(t, raw(split, fmt.Sprintf("[%d,%d]", checkpoint, i))...)
				}
			}
			if err := o.c.Commit(ctx, o.plan(t)); err != nil {
				t.Fatal(err)
			}
		}
		for range 20 {
			for checkpoint := range 2 {
				for i := range 5 {
					fmt.Fprintf(&want, "[%d,%d]\n", checkpoint, i)
				}
			}
		}
		if got := cat(o.d.LoseAll()); got != want.String() {
			t.Fatalf("with %d open:\n%s", most, got)
		}
		if n := len(o.files()); n != 41 { // with the list of the parts
			t.Errorf("with %d open: %d files", most, n)
		}
	}
}

func TestRawLines(t *testing.T) {
	o := openSink(t, SinkConfig[json.RawMessage]{})
	o.write(t, raw(0, ` {"a": 1.50} `, "{\n  \"a\": \"x\\n\",\r\n  \"b\": [1, 2]\n}", `"é"`)...)
	if err := o.c.Commit(ctx, o.plan(t)); err != nil {
		t.Fatal(err)
	}
	if got, want := cat(o.d), " {\"a\": 1.50} \n{\"a\":\"x\\n\",\"b\":[1,2]}\n\"é\"\n"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	for _, bad := range []string{"", "{\n"} {
		o := openSink(t, SinkConfig[json.RawMessage]{})
		err := o.w.Write(raw(7, "1", bad))
		if err == nil || !strings.Contains(err.Error(), "split 7, position 1") || async.VerdictOf(err).Class != async.BadRecord {
			t.Errorf("%q: %v", bad, err)
		}
		if _, perr := o.w.Prepare(ctx, 1); perr == nil {
			t.Errorf("%q: a writer that failed prepares", bad)
		}
		if err := o.w.Close(); err != nil || len(o.files()) != 0 {
			t.Errorf("after Close: %v, %v", o.files(), err)
		}
	}
}

func TestTypedLines(t *testing.T) {
	type rec struct {
		Text string
		F    any
	}
	d := simfs.New()
	s := NewSink(SinkConfig[rec]{Encode: JSONLine[rec], Dir: "out", fs: d})
	w, err := s.Open(ctx, async.Subtask{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Write([]async.Record[rec]{{Value: rec{Text: "<a & b>\n"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Prepare(ctx, 1); err != nil {
		t.Fatal(err)
	}
	for name, data := range d.Files("out") {
		if want := `{"Text":"<a & b>\n","F":null}` + "\n"; string(data) != want {
			t.Errorf("%s: %s", name, data)
		}
	}
	err = w.Write([]async.Record[rec]{{Value: rec{F: func() {}}}})
	if async.VerdictOf(err).Class != async.BadRecord || !strings.Contains(err.Error(), "unsupported type") {
		t.Errorf("%v", err)
	}
}

func TestAFullDiskIsNoFaultOfARecord(t *testing.T) {
	full := errors.New("no space left on device")
	d := simfs.New()
	o := openSink(t, SinkConfig[json.RawMessage]{fs: d})
	d.Fail(func(op simfs.Op) error {
		if op.Kind == "write" {
			return full
		}
		return nil
	})
	big := `"` + strings.Repeat("x", writeBuffer) + `"`
	err := o.w.Write(raw(0, "1", big, "2"))
	if !errors.Is(err, full) || async.VerdictOf(err).Class == async.BadRecord {
		t.Fatalf("%v", err)
	}
	if _, err := o.w.Prepare(ctx, 1); !errors.Is(err, full) {
		t.Errorf("Prepare: %v", err)
	}
	if err := errors.Join(o.w.Close(), o.w.Close()); err != nil || len(o.files()) != 0 {
		t.Errorf("after Close: %v, %v", o.files(), err)
	}
	if err := o.w.Write(raw(0, "1")); err == nil {
		t.Error("a closed writer takes records")
	}
}

func TestCloseLeavesWhatWasPrepared(t *testing.T) {
	o := openSink(t, SinkConfig[json.RawMessage]{})
	o.write(t, raw(0, "1")...)
	plan := o.plan(t)
	o.write(t, raw(0, "2")...)
	o.write(t, raw(1, "3")...)
	if err := o.w.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(o.files()); n != 1 {
		t.Fatalf("%v; want the prepared one alone", o.files())
	}
	if err := o.c.Commit(ctx, plan); err != nil || cat(o.d) != "1\n" {
		t.Errorf("%q, %v", cat(o.d), err)
	}
}

func TestBeginRefusesForeignParts(t *testing.T) {
	d := simfs.New()
	o := openSink(t, SinkConfig[json.RawMessage]{fs: d})
	o.write(t, raw(0, "1")...)
	if err := o.c.Commit(ctx, o.plan(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := o.c.Begin(ctx, o.state); err != nil {
		t.Errorf("the run's own parts: %v", err)
	}
	refused := func(what string, c connector.Committer, previous []byte, names string) {
		t.Helper()
		_, err := c.Begin(ctx, previous)
		if err == nil || !strings.Contains(err.Error(), "holds part files that no checkpoint of this job knows ("+names+"): another job wrote them, or the job's checkpoints are gone. "+
			"A start does not replace them, not even a fresh one: move or delete out/part-*, or write to another folder") {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("no previous run", o.c, nil, "part-00000-00000.jsonl")
	refused("a state of something else", o.c, []byte("12345678"), "part-00000-00000.jsonl")
	var st sinkState
	if err := json.Unmarshal(o.state, &st); err != nil {
		t.Fatal(err)
	}
	st.Dir = "/elsewhere"
	other, _ := json.Marshal(st)
	refused("a run that wrote into another folder", o.c, other, "part-00000-00000.jsonl")
	for _, name := range []string{"part-x.csv", "part-00000-00001.jsonl", "part-00001-00000.jsonl", "part-a100000-00000.jsonl", "notes.txt"} {
		if err := fsx.WriteFile(d, filepath.Join("out", name), nil); err != nil {
			t.Fatal(err)
		}
	}
	refused("parts beyond the run's", o.c, o.state, "part-00000-00001.jsonl, part-00001-00000.jsonl, part-a100000-00000.jsonl and 1 more")
}

func TestCommitSaysWhatIsWrong(t *testing.T) {
	final := filepath.Join("out", partName(4, 0))
	for name, tt := range map[string]struct {
		upset func(d *simfs.Disk, pending string) error
		want  string
	}{
		"both gone": {func(d *simfs.Disk, pending string) error { return d.Remove(pending) }, "out holds neither .pending-"},
		"a stranger has the name": {func(d *simfs.Disk, _ string) error { return fsx.WriteFile(d, final, []byte("x")) },
			final + " exists and this job did not write it; move it away"},
		"cut short": {func(d *simfs.Disk, pending string) error { return fsx.WriteFile(d, pending, []byte("x")) }, "has 1 bytes, but 2 were synced"},
		"a stranger in place of both": {func(d *simfs.Disk, pending string) error {
			return errors.Join(d.Remove(pending), fsx.WriteFile(d, final, []byte("strange")))
		}, final + " has 7 bytes, but 2 were written"},
	} {
		o := openSink(t, SinkConfig[json.RawMessage]{})
		o.write(t, raw(4, "1")...)
		o.write(t, raw(9, "9")...)
		plan := o.plan(t)
		i := slices.IndexFunc(o.files(), func(n string) bool { return strings.Contains(n, "-4-") })
		if err := tt.upset(o.d, filepath.Join("out", o.files()[i])); err != nil {
			t.Fatal(err)
		}
		before := fmt.Sprint(o.d.Files("out"))
		if err := o.c.Commit(ctx, plan); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
		if after := fmt.Sprint(o.d.Files("out")); after != before {
			t.Errorf("%s: a plan that can't be carried out changed %s to %s", name, before, after)
		}
	}
}

func TestHostilePlansAndStates(t *testing.T) {
	o := openSink(t, SinkConfig[json.RawMessage]{})
	for _, plan := range []string{"{", `{"moves":[{"from":"../x","to":"part-00000-00000.jsonl"}]}`, `{"moves":[{"from":"data.jsonl","to":"part-00000-00000.jsonl"}]}`,
		`{"moves":[{"from":".pending-x","to":"../part-00000-00000.jsonl"}]}`} {
		if err := o.c.Commit(ctx, []byte(plan)); err == nil || !strings.Contains(err.Error(), "the sink's plan in the checkpoint is") {
			t.Errorf("plan %s: %v", plan, err)
		}
	}
	for _, state := range []string{"", "[]", `{"parts":[{"split":2,"n":1},{"split":1,"n":1}]}`, `{"stale":[{"split":-1,"n":1}]}`} {
		if _, _, err := o.c.Plan([]byte(state), nil); err == nil || !strings.Contains(err.Error(), "the sink's state in the checkpoint is") {
			t.Errorf("state %s: %v", state, err)
		}
	}
	if _, _, err := o.c.Plan(o.state, []connector.Pending{{Data: []byte("x")}}); err == nil {
		t.Error("a pending result of another sink passes")
	}
}

func TestCleanLeavesOtherJobsAlone(t *testing.T) {
	d := simfs.New()
	a := openSink(t, SinkConfig[json.RawMessage]{fs: d, Job: "a/../job"})
	a.write(t, raw(0, "1")...)
	a.plan(t)
	a.c.Close()
	b := openSink(t, SinkConfig[json.RawMessage]{fs: d, Job: "b"})
	b.write(t, raw(0, "1")...)
	b.plan(t)
	b.c.Close()
	if err := a.c.Clean(ctx); err != nil {
		t.Fatal(err)
	}
	if files := a.files(); len(files) != 1 || !strings.HasPrefix(files[0], pendingOf("b")) {
		t.Errorf("left: %v", files)
	}
	c, err := NewSink(SinkConfig[json.RawMessage]{Encode: RawLine, Dir: "none", fs: d}).Committer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Clean(ctx), c.Commit(ctx, nil), c.Close()); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestSinkConfig(t *testing.T) {
	for want, c := range map[string]SinkConfig[json.RawMessage]{
		"has no folder":             {Encode: RawLine},
		"bound of open files is -1": {Dir: "out", Encode: RawLine, MaxOpen: -1},
		"the sink has no Encode":    {Dir: "out"},
	} {
		if _, err := NewSink(c).Open(ctx, async.Subtask{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
		if _, err := NewSink(c).Committer(ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
}

// On a real disk, as in a job: two checkpoints, then a run that takes its place.
func TestRealFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "out")
	s := rawSink(dir)
	var state []byte
	for _, run := range []string{"1", "2"} {
		c, err := s.Committer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if state, err = c.Begin(ctx, state); err != nil {
			t.Fatal(err)
		}
		w, err := s.Open(ctx, async.Subtask{Run: run})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := w.Write(raw(i%2, run)); err != nil {
				t.Fatal(err)
			}
			pending, err := w.Prepare(ctx, int64(i))
			if err != nil {
				t.Fatal(err)
			}
			var plan []byte
			if state, plan, err = c.Plan(state, pending); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := c.Commit(ctx, plan); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(w.Close(), c.Close()); err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(names) != 3 {
			t.Fatalf("%v, %v", names, err)
		}
		for _, name := range names {
			if b, err := os.ReadFile(name); err != nil || string(b) != run+"\n" {
				t.Errorf("%s holds %q, %v; want %s", name, b, err, run)
			}
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	recs := raw(0, slices.Repeat([]string{`{"id":1364,"label":2,"pixels":[0,0,7,16,14,3,0,0,0,0,9,14,11,15,0,0]}`}, 256)...)
	w, err := rawSink(b.TempDir()).Open(ctx, async.Subtask{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Write(recs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(recs)), "ns/record")
}
