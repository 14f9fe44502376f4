package jobfile

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/job"
)

var someSplits = []connector.Split{{Data: []byte("a"), Start: 0}, {Data: []byte("b"), Start: 7}}

func TestClaim(t *testing.T) {
	spec := load(t, fromFiles+"  on_error: {record: dead_letter}\ndead_letter: {file: {path: failed}}\n")
	out, failed := spec.Sink.File.Path, spec.DeadLetter.File.Path
	again := func(change func(*job.Spec), splits []connector.Split, resumed bool) error {
		other := *spec
		if change != nil {
			change(&other)
		}
		return claim(&other, splits, resumed)
	}
	if err := again(nil, someSplits, true); err != nil { // resumed, and there is nothing yet
		t.Fatal(err)
	}
	for _, dir := range []string{out, failed} {
		var m folderMark
		b, err := os.ReadFile(filepath.Join(dir, markName))
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err != nil || m.Job != "digits" || m.Model != "m" || len(m.Input) != 64 {
			t.Errorf("%s is marked with %s: %v", dir, b, err)
		}
	}
	// Without results a folder is free, whoever had it.
	if err := again(func(s *job.Spec) { s.Name = "other" }, nil, false); err != nil {
		t.Fatal(err)
	}
	if err := again(nil, someSplits, false); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(out, "part-000001.jsonl"), "{}\n")
	put(t, filepath.Join(out, pendingPrefix+"1"), "{")
	put(t, filepath.Join(out, "notes"), "the user's")
	wantError(t, again(nil, someSplits, false), "job.yaml:3:15: sink.file.path: "+out+" contains 1 files of results (part-000001.jsonl, ...); want an empty folder, or --resume")
	if hidden(t, out) != 1 {
		t.Error("a folder that was refused has changed")
	}
	const foreign = "want the former job file and input, or an empty folder"
	for name, change := range map[string]func(*job.Spec){
		"name":      func(s *job.Spec) { s.Name = "other" },
		"model":     func(s *job.Spec) { s.Infer.Model = "other" },
		"version":   func(s *job.Spec) { s.Infer.Version = "2" },
		"inputs":    func(s *job.Spec) { s.Infer.Inputs = map[string]job.Field{"x": {Field: "y"}} },
		"outputs":   func(s *job.Spec) { s.Infer.Outputs = map[string]job.Output{"x": {Field: "y"}} },
		"errors":    func(s *job.Spec) { s.Infer.OnError = nil },
		"overwrite": func(s *job.Spec) { s.Infer.Overwrite = true },
	} {
		t.Run(name, func(t *testing.T) { wantError(t, again(change, someSplits, true), foreign) })
	}
	wantError(t, again(nil, someSplits[:1], true), foreign)
	wantError(t, again(nil, []connector.Split{{Data: []byte("a")}, {Data: []byte("b"), Start: 8}}, true), foreign)
	// Where the model is and how it is asked does not matter.
	if err := again(func(s *job.Spec) { s.Infer.Endpoint, s.Infer.Capacity, s.Parallelism = "unix:///other", 7, 9 }, someSplits, true); err != nil {
		t.Error(err)
	}
	if hidden(t, out) != 0 || folder(t, out) != "notes: the user's\npart-000001.jsonl: {}" {
		t.Errorf("%d files are pending, and there are\n%s", hidden(t, out), folder(t, out))
	}
	if err := os.Remove(filepath.Join(out, markName)); err != nil {
		t.Fatal(err)
	}
	wantError(t, again(nil, someSplits, true), "without a mark of the job that wrote them")
	// Both folders are looked at.
	put(t, filepath.Join(failed, "part-000001.jsonl"), "{}\n")
	err := again(nil, someSplits, false)
	wantError(t, err, "job.yaml:3:15: sink.file.path")
	wantError(t, err, "job.yaml:8:22: dead_letter.file.path")
}

func TestClaimFolder(t *testing.T) {
	dir := t.TempDir()
	mark := []byte("{}")
	// A name that looks like a pattern.
	odd := filepath.Join(dir, "out[1]*")
	if err := os.Mkdir(odd, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := claimFolder(odd, mark, false); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(odd, "part-0"), "")
	put(t, filepath.Join(odd, pendingPrefix+"0"), "")
	wantError(t, claimFolder(odd, mark, false), "contains 1 files of results")
	if err := claimFolder(odd, mark, true); err != nil {
		t.Error(err)
	}
	if all, err := os.ReadDir(odd); err != nil || len(all) != 2 {
		t.Errorf("there are %v, %v", all, err)
	}
	// A link to a folder is that folder.
	link := filepath.Join(dir, "link")
	if err := os.Symlink(odd, link); err != nil {
		t.Fatal(err)
	}
	wantError(t, claimFolder(link, mark, false), "contains 1 files of results")
	if err := claimFolder(link, mark, true); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	put(t, file, "")
	wantError(t, claimFolder(file, mark, false), "not a directory")
	wantError(t, claimFolder(filepath.Join(file, "out"), mark, false), "not a directory")
	// What is pending and cannot be removed is somebody's.
	if err := os.MkdirAll(filepath.Join(odd, pendingPrefix+"1", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	wantError(t, claimFolder(odd, mark, true), "not empty")
	if err := os.Mkdir(filepath.Join(dir, "marked"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "marked", markName), 0o755); err != nil {
		t.Fatal(err)
	}
	wantError(t, claimFolder(filepath.Join(dir, "marked"), mark, false), "is a directory")
}

// Results and dead letters in one folder would replace each other's files, whatever its names are,
// and whether it is there or not.
func TestOneFolderForTwo(t *testing.T) {
	for _, there := range []bool{true, false} {
		for _, name := range []string{"out", "./out/", "link/out"} {
			t.Run(fmt.Sprintf("%s, %v", name, there), func(t *testing.T) {
				dir := t.TempDir()
				spec := loadIn(t, dir, fromFiles+"  on_error: {record: dead_letter}\ndead_letter: {file: {path: failed}}\n")
				spec.DeadLetter.File.Path = dir + "/" + name // Load sees that some are the same
				if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
					t.Fatal(err)
				}
				if there {
					if err := os.Mkdir(spec.Sink.File.Path, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				err := claim(spec, someSplits, false)
				wantError(t, err, "dead_letter.file.path: want another folder than the sink's")
				if err != nil && strings.Contains(err.Error(), "sink.file.path: ") {
					t.Error(err)
				}
				if _, err := os.Stat(spec.Sink.File.Path); (err == nil) != there {
					t.Errorf("is the folder there: %v; it was before: %v", err == nil, there)
				}
			})
		}
	}
}

// A job that is refused leaves no folder that was not there.
func TestRefusedJobLeavesNoFolder(t *testing.T) {
	spec := load(t, fromFiles+"  on_error: {record: dead_letter}\ndead_letter: {file: {path: failed}}\n")
	out, failed := spec.Sink.File.Path, spec.DeadLetter.File.Path
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(out, "part-000001.jsonl"), "{}\n")
	for range 10 { // in whatever order they are looked at
		wantError(t, claim(spec, someSplits, false), "sink.file.path: "+out+" contains 1 files of results")
		if _, err := os.Stat(failed); err == nil {
			t.Fatal("there is a new folder")
		}
	}
	put(t, failed, "a file")
	wantError(t, claim(spec, someSplits, true), "dead_letter.file.path: "+failed+" is a file; a folder is needed there")
}

// The mark says whose results there are. Where it is right it is not touched, so that a full disk
// cannot take it.
func TestMarkIsReplacedWhole(t *testing.T) {
	spec := load(t, fromFiles)
	out := spec.Sink.File.Path
	if err := claim(spec, someSplits, false); err != nil {
		t.Fatal(err)
	}
	look := func() os.FileInfo {
		t.Helper()
		info, err := os.Stat(filepath.Join(out, markName))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	put(t, filepath.Join(out, "part-000000.jsonl"), "{}\n")
	early := time.UnixMilli(1700000000000)
	if err := os.Chtimes(filepath.Join(out, markName), early, early); err != nil {
		t.Fatal(err)
	}
	first := look()
	if err := claim(spec, someSplits, true); err != nil {
		t.Fatal(err)
	}
	if same := look(); !os.SameFile(first, same) || !same.ModTime().Equal(early) {
		t.Error("the mark was written again")
	}
	if err := os.Remove(filepath.Join(out, "part-000000.jsonl")); err != nil {
		t.Fatal(err)
	}
	// so that its place on the disk is not given away
	held, err := os.Open(filepath.Join(out, markName))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := claim(spec, someSplits[:1], false); err != nil {
		t.Fatal(err)
	}
	if os.SameFile(first, look()) {
		t.Error("the mark was changed in its place")
	}
}
