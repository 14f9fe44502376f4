package checkpoint

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Every file of a store has one of the names that Files returns.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	run, err := s.Start("job")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []int64{1, 123456789012} {
		if err := s.Write(t.Context(), &Snapshot{Job: "job", Run: run.ID, ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	err = fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		if !slices.ContainsFunc(s.Files(), func(p string) bool {
			ok, err := filepath.Match(p, path)
			return ok && err == nil
		}) {
			t.Errorf("%s is none of %v", path, s.Files())
		}
		return nil
	})
	if err != nil || n < 4 {
		t.Errorf("%d files, %v", n, err)
	}
}
