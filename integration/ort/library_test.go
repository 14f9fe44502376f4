//go:build integration

// Package ort_test shows the ONNX Runtime backend against the real library: the same answers as
// pure Go, every datatype, and nothing that leaks.
package ort_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/tensorferry/tensorferry/internal/pyenv"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/ort"
)

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

// findLibrary returns $TENSORFERRY_ORT_LIB, or the file that the Python package brings.
func findLibrary() (string, error) {
	if file := os.Getenv(ort.LibraryVariable); file != "" {
		return file, nil
	}
	env, err := pyenv.Ensure("testdata/onnxruntime.txt")
	if err != nil {
		return "", err
	}
	pattern := filepath.Join(env.Dir, "lib", "python3*", "site-packages", "onnxruntime", "capi", "libonnxruntime.so.*")
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("the package onnxruntime brought no file like %s", pattern)
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
