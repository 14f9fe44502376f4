package file

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tensorferry/tensorferry/async"
)

// tree makes files, each with one line that is its own name, and links (name -> target).
func tree(t *testing.T, names ...string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for _, name := range names {
		link, target, isLink := strings.Cut(name, " -> ")
		if err := os.MkdirAll(filepath.Dir(link), 0o777); err != nil {
			t.Fatal(err)
		}
		err := error(nil)
		if isLink {
			err = os.Symlink(target, link)
		} else {
			err = os.WriteFile(name, fmt.Appendf(nil, "%q\n", name), 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// named returns the files that paths name, in their order.
func named(paths ...string) (names string, err error) {
	all, err := rawSource(paths...).expand(context.Background())
	var list []string
	for _, f := range all {
		list = append(list, f.path)
	}
	return strings.Join(list, " "), err
}

func TestPatternsMatch(t *testing.T) {
	tree(t,
		"in/b.jsonl", "in/a.jsonl", "in/a/x.jsonl", "in/a/b/c/deep.jsonl", "in/a-b/y.jsonl", "in/note.txt",
		"in/.pending-1.jsonl", "in/._x.jsonl", "in/.hidden/z.jsonl", "in/a/.hidden/z.jsonl",
		"in/a/up -> ..", "in/a/self -> .", "in/side -> ../other", "other/far.jsonl", "in/gone.jsonl -> nowhere",
		"in/round.jsonl -> round.jsonl", "in/under.jsonl -> a.jsonl/x",
		"odd/[x].jsonl", "odd/{a,b}.jsonl", "odd/a**b.jsonl", "odd/x.jsonl",
	)
	for _, tt := range []struct {
		path string
		want string // the files, or the error
	}{
		{"in/*.jsonl", "in/a.jsonl in/b.jsonl"},
		{"./in//*.jsonl", "in/a.jsonl in/b.jsonl"},
		{"in/?.jsonl", "in/a.jsonl in/b.jsonl"},
		{"in/[^a].jsonl", "in/b.jsonl"},
		{`in/\a.j*`, "in/a.jsonl"},
		// A dot at the beginning is matched by a dot alone.
		{"in/.*.jsonl", "in/._x.jsonl in/.pending-1.jsonl"},
		{"in/.pending-*", "in/.pending-1.jsonl"},
		{"in/[.]*.jsonl", "matches no file"},
		{"in/?_x.jsonl", "matches no file"},
		{"in/.hidden/*.jsonl", "in/.hidden/z.jsonl"},
		{"in/.h*/*.jsonl", "in/.hidden/z.jsonl"},
		{"in/.pending-1.jsonl", "in/.pending-1.jsonl"},
		{"in/*/z.jsonl", "matches no file"},
		// Any depth, without hidden folders and links to folders.
		{"in/**/*.jsonl", "in/a-b/y.jsonl in/a.jsonl in/a/b/c/deep.jsonl in/a/x.jsonl in/b.jsonl"},
		{"in/**", "in/a-b/y.jsonl in/a.jsonl in/a/b/c/deep.jsonl in/a/x.jsonl in/b.jsonl in/note.txt"},
		{"**/deep.jsonl", "in/a/b/c/deep.jsonl"},
		{"in/**/**/b/**/*.jsonl", "in/a/b/c/deep.jsonl"},
		{"in/**/.hidden/*.jsonl", "in/.hidden/z.jsonl in/a/.hidden/z.jsonl"},
		{"in/**/.*.jsonl", "in/._x.jsonl in/.pending-1.jsonl"},
		// An element that names a link follows it.
		{"in/*/*.jsonl", "in/a-b/y.jsonl in/a/x.jsonl in/side/far.jsonl"},
		{"in/side/**/*.jsonl", "in/side/far.jsonl"},
		{"in/a/*/a.jsonl", "in/a/up/a.jsonl"},
		// As the system takes it.
		{"in/a/up/../in/*.jsonl", "in/a/up/../in/a.jsonl in/a/up/../in/b.jsonl"},
		// A file of that very name is meant first.
		{"odd/[x].jsonl", "odd/[x].jsonl"},
		{"odd/{a,b}.jsonl", "odd/{a,b}.jsonl"},
		{"odd/a**b.jsonl", "odd/a**b.jsonl"},
		{`odd/\[?\].jsonl`, "odd/[x].jsonl"},
		{`odd/\{a,b\}.j*`, "odd/{a,b}.jsonl"},
		{"odd/{*", "odd/{a,b}.jsonl"},
		// Wildcards that a shell reads in another way.
		{"in/a**", "** stands for any depth of folders only where it is alone"},
		{"in/**.jsonl", "** stands for any depth"},
		{"in/***/x", "** stands for any depth"},
		{"in/{a,b}.jsonl", "alternatives in braces, as in {a,b}, are not supported"},
		{"in/{a,a/b}/*.jsonl", "alternatives in braces"},
		{"in/{1..3}.jsonl", "alternatives in braces"},
		{"in/[!a].jsonl", "a class that begins with ! is not supported"},
		{"in/[[:alpha:]].jsonl", "classes by name are not supported"},
		{"in/[^[:alpha:]].jsonl", "classes by name are not supported"},
		{"in/[a[.x.]].jsonl", "classes by name are not supported"},
		{`odd/[\[]x].jsonl`, "odd/[x].jsonl"},
		{"in/[a.jsonl", "syntax error in pattern"},
		{"none/**/*.jsonl", "matches no file"},
		{"in/a.jsonl/*", "matches no file"},
	} {
		got, err := named(filepath.FromSlash(tt.path))
		if err != nil {
			got = err.Error()
			if strings.Contains(got, tt.want) {
				continue
			}
		}
		if got != tt.want {
			t.Errorf("%s: %s; want %s", tt.path, got, tt.want)
		}
	}
}

// However many names and links a file has, it is read once, under the one that comes first.
func TestOneFileIsReadOnce(t *testing.T) {
	tree(t, "in/a.jsonl", "in/b.jsonl", "in/link.jsonl -> b.jsonl", "in/0.jsonl -> a.jsonl", "same -> in")
	if err := os.Link("in/b.jsonl", "in/hard.jsonl"); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		paths []string
		want  string
	}{
		{[]string{"in/*.jsonl"}, "in/0.jsonl in/b.jsonl"},
		{[]string{"in/hard.jsonl", "same/*.jsonl"}, "in/hard.jsonl same/0.jsonl"},
		{[]string{"in/a.jsonl", "./in/../in/a.jsonl", "in//a.jsonl", filepath.Join(here, "in/a.jsonl"), "same/a.jsonl", "in/0.jsonl"}, "in/a.jsonl"},
		{[]string{"**/*.jsonl", "same/**"}, "in/0.jsonl in/b.jsonl"},
	} {
		if got, err := named(tt.paths...); got != tt.want || err != nil {
			t.Errorf("%v: %s, %v; want %s", tt.paths, got, err, tt.want)
		}
	}
	var log strings.Builder
	s := NewSource(SourceConfig[json.RawMessage]{
		Decode: Raw,
		Paths:  []string{"in/b.jsonl", "in/b.jsonl", "in/hard.jsonl"}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if _, err := s.Splits(ctx); err != nil || strings.Count(log.String(), "two names of one file") != 1 {
		t.Errorf("%v; %s", err, log.String())
	}
}

// A folder that cannot be read might hold records.
func TestUnreadableFolder(t *testing.T) {
	if os.Getuid() == 0 {
		tree(t, "in/a.jsonl")
		w := walk{ctx: ctx}
		_, elems, err := parsePattern("*")
		if err == nil {
			// The administrator may read any folder, but cannot read a file as a folder.
			err = w.from("in/a.jsonl", elems)
		}
		if err == nil || !strings.Contains(err.Error(), "the input would lack the files in it") {
			t.Errorf("%v", err)
		}
		return
	}
	tree(t, "in/a.jsonl", "in/shut/b.jsonl")
	if err := os.Chmod("in/shut", 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod("in/shut", 0o700) })
	if got, err := named("in/**"); err == nil || !strings.Contains(err.Error(), "the input would lack the files in it") {
		t.Errorf("%s, %v", got, err)
	}
}

// A file that cannot be looked at might hold records. A name that is not a file does not.
func TestMatchesThatAreNoFiles(t *testing.T) {
	tree(t, "in/a.jsonl", "in/gone.jsonl -> nowhere")
	pipe := filepath.Join("in", "pipe.jsonl")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	s := NewSource(SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{"in/*"}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if splits, err := s.Splits(ctx); err != nil || len(splits) != 1 {
		t.Fatal(splits, err)
	}
	for _, want := range []string{"is not a regular file", pipe, "a link leads nowhere", "gone.jsonl"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("it does not log %q: %s", want, log.String())
		}
	}
	if err := os.Symlink(strings.Repeat("x", 300), filepath.Join("in", "b.jsonl")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Splits(ctx); err == nil || !strings.Contains(err.Error(), "b.jsonl") ||
		!strings.Contains(err.Error(), "the input would lack the files in it") {
		t.Errorf("a file with an impossible name: %v", err)
	}
}

func TestWalkEndsWithItsContext(t *testing.T) {
	tree(t, "in/a/b.jsonl")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := rawSource("in/**").Splits(ended); err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("%v", err)
	}
}

// Two patterns meet where there is a name that both match, and one meets a name where it matches
// it.
func TestPatternsMeet(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	text := func(parts []string) string {
		var b strings.Builder
		for range r.IntN(6) {
			b.WriteString(parts[r.IntN(len(parts))])
		}
		return b.String()
	}
	var names []string
	for range 1500 {
		names = append(names, text([]string{"a", "b", "-", "7", ".", "é"}))
	}
	for range 400 {
		pattern, other := text([]string{"*", "?", "[ab]", "[^a]", "[^b7]", "[0-9]", "a", "-", `\*`, "é", "."}), text([]string{"*", "a", "[0-9a]", "7", "b"})
		if strings.Contains(pattern+other, "**") {
			continue
		}
		e, err := parseElement(pattern)
		if err != nil {
			t.Fatalf("seed %d: %s: %v", seed, pattern, err)
		}
		o, err := parseElement(other)
		if err != nil {
			t.Fatal(err)
		}
		common := ""
		for _, name := range names {
			want, err := filepath.Match(pattern, name)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(name, ".") && !strings.HasPrefix(pattern, ".") {
				want = false
			}
			l := literalElement(name)
			if got := e.matches(name); got != want || name != "" && e.meets(&l) != want {
				t.Fatalf("seed %d: %s matches %q: %v, meets it: %v; want %v", seed, pattern, name, got, e.meets(&l), want)
			}
			if want && o.matches(name) {
				common = name
			}
		}
		if common != "" && (!e.meets(&o) || !o.meets(&e)) {
			t.Fatalf("seed %d: %s and %s do not meet, and both match %q", seed, pattern, other, common)
		}
	}
	for _, tt := range []struct {
		pattern, names string
		want           bool
	}{
		{"*.jsonl", "part-*.jsonl", true}, {"p*", "part-*.jsonl", true}, {"in-*.jsonl", "part-*.jsonl", false},
		{"*.json", "part-*.jsonl", false}, {"[a-o]*", "part-*.jsonl", false}, {"*-x-*", "part-[0-9]*[0-9].jsonl", true},
		{"part-[a-z].jsonl", "part-[0-9].jsonl", false}, {"*", ".pending-*", false}, {".*", ".pending-*", true},
		{"*/*", "out/part-*", true}, {"*", "out/part-*", false}, {"**/*", "a/b/part-*", true}, {"**/*", "a/.b/part-*", false},
		{"**/b/*", "a/b/part-*", true}, {"**/c/*", "a/b/part-*", false}, {"a/**/b/**", "a/b/x/y", true},
		{strings.Repeat("*a", 40), strings.Repeat("a", 60) + "b", false},
		{strings.Repeat("**/*/", 20) + "x", strings.Repeat("a/", 60) + "y", false},
	} {
		_, p, err := parsePattern(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		_, n, err := parsePattern(tt.names)
		if err != nil {
			t.Fatal(err)
		}
		if got := pathsMeet(p, n); got != tt.want {
			t.Errorf("%s and %s meet: %v", tt.pattern, tt.names, got)
		}
	}
}

// Files returns the names that the sink makes.
func TestSinkFiles(t *testing.T) {
	sink := rawSink(t.TempDir())
	w, err := sink.Open(ctx, async.Subtask{Operator: "sink", Parallelism: 1, Run: "r"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Write([]async.Record[json.RawMessage]{{Value: json.RawMessage("{}")}}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(sink.Dir())
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	names := []string{entries[0].Name(), partName(0, 0), partName(99999, 100000), partName(1234567, 12345678)}
	for _, name := range names {
		if !slices.ContainsFunc(sink.Files(), func(p string) bool {
			ok, err := filepath.Match(p, name)
			return ok && err == nil
		}) {
			t.Errorf("%s is none of %v", name, sink.Files())
		}
	}
}
