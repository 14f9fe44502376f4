//go:build integration

package pyenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// Program builds this project's own command, once for all tests of a package, and returns its path.
// `go run` would hide exit codes and signals.
var Program = sync.OnceValues(func() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "tensorferry-integration")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "tensorferry")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/tensorferry")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})
