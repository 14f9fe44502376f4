package ort

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// LibraryVariable is the environment variable that names the library's file.
const LibraryVariable = "TENSORFERRY_ORT_LIB"

// ErrNoLibrary says that none of the known places holds a library.
var ErrNoLibrary = errors.New("no ONNX Runtime library")

// folders returns the folders that are searched, in their order: those of LD_LIBRARY_PATH, the
// program's own, and the system's.
func folders() []string {
	out := filepath.SplitList(os.Getenv("LD_LIBRARY_PATH"))
	if exe, err := os.Executable(); err == nil {
		out = append(out, filepath.Dir(exe))
	}
	out = append(out, "/opt/onnxruntime/lib", "/usr/local/lib", "/usr/lib", "/usr/lib64")
	if triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]; triplet != "" {
		out = append(out, "/usr/lib/"+triplet)
	}
	// An empty entry of the path means the current folder, where anybody may put a file.
	return slices.DeleteFunc(out, func(dir string) bool { return !filepath.IsAbs(dir) })
}

// Find returns the library's file. It is file itself, if that is not empty, and otherwise the file
// that $TENSORFERRY_ORT_LIB names. If neither is set, it is the first libonnxruntime.so (or
// libonnxruntime.so.VERSION, or .dylib) in a folder of LD_LIBRARY_PATH, beside the program, in
// /opt/onnxruntime/lib or in the system's library folders. If there is none, the error is
// ErrNoLibrary and lists the places.
func Find(file string) (string, error) { return find(file, os.Getenv(LibraryVariable), folders()) }

func find(file, variable string, dirs []string) (string, error) {
	if file != "" {
		return file, nil
	}
	if variable != "" {
		return variable, nil
	}
	for _, dir := range dirs {
		for _, pattern := range []string{"libonnxruntime.so", "libonnxruntime.dylib", "libonnxruntime.so.*"} {
			if found, _ := filepath.Glob(filepath.Join(dir, pattern)); len(found) > 0 {
				return found[len(found)-1], nil
			}
		}
	}
	return "", fmt.Errorf("%w found in %s; install it, or name its file with --ort-lib or $%s",
		ErrNoLibrary, strings.Join(dirs, ", "), LibraryVariable)
}

// check examines the file before the system's loader opens it. The loader may end the process over
// a file that is cut short, and it runs whatever code a wrong library contains.
func check(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("the ONNX Runtime library: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("the ONNX Runtime library: %s is not a regular file", path)
	}
	if runtime.GOOS != "linux" {
		return nil
	}
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s is not a library for this system: %w", path, err)
	}
	defer f.Close()
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]; want != 0 && f.Machine != want {
		return fmt.Errorf("%s is a library for %v; this program needs one for %v", path, f.Machine, want)
	}
	for _, p := range f.Progs {
		if end := p.Off + p.Filesz; end < p.Off || end > uint64(info.Size()) {
			return fmt.Errorf("%s is cut short: it has %d bytes, and its header says %d or more", path, info.Size(), end)
		}
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("%s cannot be loaded as a library: %w", path, err)
	}
	if !slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == "OrtGetApiBase" && s.Section != elf.SHN_UNDEF }) {
		return fmt.Errorf("%s is not ONNX Runtime: it has no OrtGetApiBase", path)
	}
	return nil
}
