//go:build integration

// Package ort_test shows the ONNX Runtime backend against the real library: the same answers as
// pure Go, every datatype, and nothing that leaks.
package ort_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/ort"
)

// wheel is the Python package that brings the library.
const wheel = "onnxruntime==1.32.0"

var library *ort.Library

func TestMain(m *testing.M) {
	file, err := findLibrary()
	if err == nil {
		library, err = ort.Open(file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the ONNX Runtime library of the tests:", err)
		os.Exit(1)
	}
	fmt.Println(library)
	goleak.VerifyTestMain(m)
}

// findLibrary returns $TENSORFERRY_ORT_LIB, or the file in a virtual environment that is
// made once and kept in the user's cache.
func findLibrary() (string, error) {
	if file := os.Getenv(ort.LibraryVariable); file != "" {
		return file, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "tensorferry", "ort-1.32.0")
	pattern := filepath.Join(dir, "lib", "python3*", "site-packages", "onnxruntime", "capi", "libonnxruntime.so.*")
	if found, _ := filepath.Glob(pattern); len(found) > 0 {
		return found[0], nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for _, args := range [][]string{{"python3", "-m", "venv", dir}, {filepath.Join(dir, "bin", "pip"), "install", "-q", "--no-deps", wheel}} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%q: %w\n%s", args, err, out)
		}
	}
	found, _ := filepath.Glob(pattern)
	if len(found) == 0 {
		return "", fmt.Errorf("%s brought no file like %s", wheel, pattern)
	}
	return found[0], nil
}

func load(t testing.TB, path string, opts ort.Options) backend.Model {
	t.Helper()
	m, err := library.Load(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}
