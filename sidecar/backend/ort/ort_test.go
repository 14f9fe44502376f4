package ort

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tensorferry/tensorferry/sidecar/backend"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOptions(t *testing.T) {
	for query, want := range map[string]Options{
		"":                                {Instances: 1, Threads: 1, Device: "cpu"},
		"instances=2&threads=3":           {Instances: 2, Threads: 3, Device: "cpu"},
		"device=cuda":                     {Instances: 1, Threads: 1, Device: "cuda"},
		"device=cuda:3&max_batch=9":       {Instances: 1, Threads: 1, Device: "cuda:3", MaxBatch: 9},
		"fixed_batch=8&max_batch=9":       {Instances: 1, Threads: 1, Device: "cpu", FixedBatch: 8, MaxBatch: 8},
		"fixed_batch=8&max_batch=4":       {Instances: 1, Threads: 1, Device: "cpu", FixedBatch: 8, MaxBatch: 4},
		"fixed_batch=8&device=cpu":        {Instances: 1, Threads: 1, Device: "cpu", FixedBatch: 8, MaxBatch: 8},
		"instances=&threads=&max_batch=1": {Instances: 1, Threads: 1, Device: "cpu", MaxBatch: 1},
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseOptions(backend.Location{Options: values}); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", query, got, err, want)
		}
	}
	for query, want := range map[string]string{
		"device=gpu":     "want cpu, cuda or cuda:N",
		"device=cuda:":   "want cpu, cuda or cuda:N",
		"device=cuda:-1": "want cpu, cuda or cuda:N",
		"device=cpu:0":   "want cpu, cuda or cuda:N",
		"instances=0":    "at least 1",
		"threads=many":   "at least 1",
		"batch=3":        `unknown option "batch"`,
	} {
		values, _ := url.ParseQuery(query)
		if _, err := parseOptions(backend.Location{Options: values}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %s", query, err, want)
		}
	}
	for query, device := range map[string]int{"": -1, "cpu": -1, "cuda": 0, "cuda:2": 2} {
		o := Options{Device: query}
		if got, err := o.normal(); err != nil || got != device {
			t.Errorf("device %q is %d, %v", query, got, err)
		}
	}
}

func touch(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	empty, one, two := t.TempDir(), t.TempDir(), t.TempDir()
	versioned := touch(t, filepath.Join(one, "libonnxruntime.so.1.32.0"))
	plain := touch(t, filepath.Join(two, "libonnxruntime.so"))
	touch(t, filepath.Join(two, "libonnxruntime.so.1.30.0"))
	for _, c := range []struct {
		file, variable string
		dirs           []string
		want           string
	}{
		{"a", "b", []string{one}, "a"},
		{"", "b", []string{one}, "b"},
		{"", "", []string{empty, one, two}, versioned},
		{"", "", []string{two, one}, plain},
	} {
		if got, err := find(c.file, c.variable, c.dirs); err != nil || got != c.want {
			t.Errorf("find(%q, %q, %q) = %q, %v; want %q", c.file, c.variable, c.dirs, got, err, c.want)
		}
	}
	_, err := find("", "", []string{empty})
	if !errors.Is(err, ErrNoLibrary) || !strings.Contains(err.Error(), empty) || !strings.Contains(err.Error(), "--ort-lib") {
		t.Errorf("no library in any folder: %v", err)
	}
	// The current folder is not searched: anybody may have put a library there.
	t.Setenv("LD_LIBRARY_PATH", ":relative:"+one)
	if got := folders(); got[0] != one {
		t.Errorf("the first folder is %q", got[0])
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut.so")
	if err := os.WriteFile(cut, whole[:len(whole)/3], 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		filepath.Join(dir, "absent.so"), dir, touch(t, filepath.Join(dir, "text.so")), cut, exe,
	} {
		lib, err := Open(path)
		if err == nil {
			t.Errorf("%s was opened: %v", path, lib)
			continue
		}
		t.Log(err)
		if !strings.Contains(err.Error(), path) && !strings.Contains(err.Error(), "without cgo") {
			t.Errorf("the error does not name %s: %v", path, err)
		}
	}
	// The loader returns the error too, and no typed nil as the model.
	if m, err := Loader(cut).Load(t.Context(), backend.Location{Path: "x.onnx"}); err == nil || m != nil {
		t.Errorf("loaded %v, %v", m, err)
	}
}
