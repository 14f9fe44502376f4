//go:build integration

package pyenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// Program builds this project's own command, once for all tests of a package, and returns its path.
// `go run` would hide exit codes and signals.
var Program = sync.OnceValues(func() (string, error) { return Build(".", "tensorferry") })

// bin is the folder of the programs that Build has built. Main removes it.
var bin = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "tensorferry-bin") })

// Build builds a command of this project and returns the path of the program. module is the folder
// of the command's module. The test's package must call Main.
func Build(module, command string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir, err := bin()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, command)
	cmd := exec.Command("go", "build", "-o", path, "./cmd/"+command)
	cmd.Dir = filepath.Join(root, module)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// Main runs the tests of a package, fails if they leave goroutines, and removes the programs that
// they have built.
func Main(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir, err := bin(); err == nil {
			os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}
