package file

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// What a job writes is never its input, by whatever path, even before it is written.
func TestApart(t *testing.T) {
	const part = "part-00000-00000.jsonl"
	here := func(t *testing.T) string {
		dir, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	results := func(dir string) any { return rawSink(dir) }
	state := func(dir string) any { return Output{dir, checkpoint.Files()} }
	for name, tt := range map[string]struct {
		files []string
		own   any
		paths []string
		want  string // what the error names; empty: they are apart
	}{
		"another folder":             {[]string{"in/a.jsonl", "out/" + part}, results("out"), []string{"in/*.jsonl"}, ""},
		"other names":                {[]string{"in/a.jsonl"}, results("in"), []string{"in/in-*.jsonl", "in/a.jsonl", "in/[a-o]*.jsonl"}, ""},
		"other ends":                 {[]string{"in/a.json"}, results("in"), []string{"in/*.json"}, ""},
		"a folder above":             {[]string{"in/a.jsonl"}, results("in/out"), []string{"in/*.jsonl"}, ""},
		"a folder below":             {[]string{"out/in/a.jsonl"}, results("out"), []string{"out/in/*.jsonl", "out/*/*.jsonl"}, ""},
		"a hidden folder":            {[]string{"in/a.jsonl"}, results("in/.out"), []string{"in/**/*.jsonl"}, ""},
		"results of another job":     {[]string{"a/" + part}, results("b"), []string{"a/part-*.jsonl"}, ""},
		"the same folder":            {[]string{"in/a.jsonl"}, results("in"), []string{"in/*.jsonl"}, "in/*.jsonl matches"},
		"not there yet":              {[]string{"in/a.jsonl"}, results("in/new/out"), []string{"in/*/*/*.jsonl"}, "in/*/*/*.jsonl matches"},
		"nothing is there yet":       {nil, results("new/out"), []string{"new/out/p*"}, "new/out/p* matches"},
		"any depth":                  {[]string{"in/a.jsonl"}, results("in/new/out"), []string{"in/**/*.jsonl"}, "in/**/*.jsonl matches"},
		"all":                        {[]string{"in/a.jsonl", "in/out/x"}, results("in/out"), []string{"**"}, "** matches"},
		"the second path":            {[]string{"in/a.jsonl"}, results("out"), []string{"in/*.jsonl", "out/*"}, "out/* matches"},
		"one split's results":        {[]string{"in/a.jsonl"}, results("out"), []string{"in/a.jsonl", "out/part-00007-*.jsonl"}, "part-00007-*.jsonl matches"},
		"results by name":            {[]string{"out/" + part}, results("out"), []string{"out/" + part}, part + " matches"},
		"a later result by name":     {[]string{"in/a.jsonl"}, results("out"), []string{"in/a.jsonl", "out/" + part}, part + " matches"},
		"pending results":            {[]string{"in/a.jsonl"}, results("in"), []string{"in/.*"}, "in/.* matches"},
		"another way to the folder":  {[]string{"in/a.jsonl"}, results("in/../in/."), []string{"./in//*"}, "./in//* matches"},
		"a link to the folder":       {[]string{"out/" + part, "in -> out"}, results("out"), []string{"in/*.jsonl"}, "in/*.jsonl matches"},
		"a link above it":            {[]string{"a/b/c", "in -> a"}, results("a/b/new"), []string{"in/b/*/*.jsonl"}, "in/b/*/*.jsonl matches"},
		"a link that is matched":     {[]string{"in/a.jsonl", "out/x", "in/l -> ../out"}, results("out"), []string{"in/*/*.jsonl"}, "in/*/*.jsonl matches"},
		"a link as its folder":       {[]string{"in/a.jsonl", "out -> in"}, results("out"), []string{"in/*.jsonl"}, "in/*.jsonl matches"},
		"a link that ** passes by":   {[]string{"in/a.jsonl", "out/x", "in/l -> ../out"}, results("out"), []string{"in/**/*.jsonl"}, ""},
		"a link to a result":         {[]string{"out/" + part, "in/a.jsonl -> ../out/" + part}, results("out"), []string{"in/*"}, "in/a.jsonl is a file that the job itself writes"},
		"a link to another file":     {[]string{"out/x", "in/a.jsonl -> ../out/x"}, results("out"), []string{"in/*"}, ""},
		"a further name of a result": {[]string{"out/" + part, "in/a.jsonl = out/" + part}, results("out"), []string{"in/*"}, "in/a.jsonl is a file that the job itself writes"},
		"a further name of a file":   {[]string{"in/b.jsonl", "in/a.jsonl = in/b.jsonl", "out/" + part}, results("out"), []string{"in/*"}, ""},
		"checkpoints":                {[]string{"in/a.jsonl"}, state("in/state"), []string{"in/**"}, "in/** matches"},
		"checkpoints by their names": {[]string{"in/a.jsonl"}, state("in"), []string{"in/*/chk-*"}, "in/*/chk-* matches"},
		"beside checkpoints":         {[]string{"in/a.jsonl"}, state("in"), []string{"in/*.jsonl", "in/**/*.jsonl"}, ""},
		"in a hidden state":          {[]string{"in/a.jsonl"}, state("in/.checkpoints"), []string{"in/**"}, ""},
		"a link into checkpoints":    {[]string{"state/run-000001-a/chk-00000001", "in -> state/run-000001-a"}, state("state"), []string{"in/chk-*"}, "in/chk-00000001 is a file that the job itself writes"},
		"what nobody knows":          {[]string{"in/a.jsonl"}, stream.NewMemoryStore(), []string{"in/*"}, ""},
		"a sink without a folder":    {[]string{"in/a.jsonl"}, results(""), []string{"in/*"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var links [][2]string
			for i := 0; i < len(tt.files); i++ {
				if name, of, ok := strings.Cut(tt.files[i], " = "); ok {
					links = append(links, [2]string{name, of})
					tt.files = append(tt.files[:i:i], tt.files[i+1:]...)
					i--
				}
			}
			tree(t, tt.files...)
			for _, l := range links {
				if err := os.MkdirAll(filepath.Dir(l[0]), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.Link(l[1], l[0]); err != nil {
					t.Fatal(err)
				}
			}
			for _, absolute := range []bool{false, true} {
				paths := tt.paths
				if absolute {
					paths = nil
					for _, p := range tt.paths {
						paths = append(paths, here(t)+"/"+p)
					}
				}
				err := rawSource(paths...).CheckLoop(ctx, rawSink("elsewhere"), tt.own)
				if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("%v: %v; want %q", paths, err, tt.want)
				}
			}
		})
	}
}

// A file that standard output goes to must not be an input, and standard input must not be a
// result.
func TestStdioApart(t *testing.T) {
	const part = "part-00000-00000.jsonl"
	tree(t, "in/a.jsonl", "in/b.jsonl", "out/"+part, "link.jsonl -> in/b.jsonl")
	open := func(name string) *os.File {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	stdout := NewStdout(StdoutConfig[json.RawMessage]{Encode: RawLine, Output: open("in/b.jsonl")})
	for path, apart := range map[string]bool{"in/*": false, "link.jsonl": false, "in/a.jsonl": true} {
		if err := rawSource(path).CheckLoop(ctx, stdout); (err == nil) != apart {
			t.Errorf("%s, to in/b.jsonl: %v", path, err)
		}
	}
	for name, apart := range map[string]bool{"in/b.jsonl": false, "out/" + part: false, "in/a.jsonl": true, os.DevNull: true} {
		in := NewStdin(StdinConfig[json.RawMessage]{Decode: Raw, Input: open(name)})
		if err := in.CheckLoop(ctx, stdout, rawSink("out")); (err == nil) != apart {
			t.Errorf("from %s: %v", name, err)
		}
	}
}

// A job finds it out by itself.
func TestAJobKeepsItsInputApart(t *testing.T) {
	tree(t, "in/a.jsonl")
	for name, run := range map[string]func(c stream.Config, s connector.Source[json.RawMessage]) error{
		"results": func(c stream.Config, s connector.Source[json.RawMessage]) error {
			j := stream.New("job", c)
			stream.To(stream.From(j, s), rawSink("in"))
			return j.Run(ctx)
		},
		"checkpoints": func(c stream.Config, s connector.Source[json.RawMessage]) error {
			store, err := checkpoint.Open("in", checkpoint.Options{})
			if err != nil {
				return err
			}
			defer store.Close()
			c.Checkpoint.Store = store
			j := stream.New("job", c)
			stream.To(stream.From(j, s), rawSink("out"))
			return j.Run(ctx)
		},
	} {
		for _, s := range []connector.Source[json.RawMessage]{rawSource("in/**"), stream.Copying(rawSource("in/**"), cloned)} {
			if err := run(stream.Config{}, s); err == nil || !strings.Contains(err.Error(), "source: file: in/** matches what the job itself writes into in") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if left, err := filepath.Glob("*/part-*"); err != nil || left != nil {
		t.Errorf("there is %v, %v", left, err)
	}
}
