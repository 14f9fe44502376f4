//go:build unix

package endpoint

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestSweep: Sweep removes what a killed process left, and nothing else.
func TestSweep(t *testing.T) {
	dir, err := os.MkdirTemp("", "sweep") // t.TempDir is too long a path for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	folder := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	listen := func(path string, killed bool) {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if l.(*net.UnixListener).SetUnlinkOnClose(false); killed {
			l.Close()
		} else {
			t.Cleanup(func() { l.Close() })
		}
	}
	file := func(path string) {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listen(filepath.Join(folder("run-1"), "s.sock"), true)
	listen(filepath.Join(folder("run-2"), "s.sock"), false)
	folder("run-3") // a process that is about to listen
	with := folder("run-4")
	listen(filepath.Join(with, "s.sock"), true)
	file(filepath.Join(with, "more"))
	file(filepath.Join(folder("run-5"), "s.sock"))
	listen(filepath.Join(folder("other-6"), "s.sock"), true)
	if err := os.Symlink(filepath.Join(dir, "other-6"), filepath.Join(dir, "run-7")); err != nil {
		t.Fatal(err)
	}
	Sweep(filepath.Join(dir, "run-*"), "s.sock")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := "[other-6 run-2 run-3 run-4 run-5 run-7]"; len(left) != 6 || left[1] != "run-2" {
		t.Errorf("left are %v, want %s", left, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "other-6", "s.sock")); err != nil {
		t.Error("a link was followed")
	}
	if c, err := net.Dial("unix", filepath.Join(dir, "run-2", "s.sock")); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}
