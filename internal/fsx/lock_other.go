//go:build !windows && (!unix || solaris || aix)

package fsx

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// lockFile always fails, since this system has no lock that ends with its process. Without a lock,
// two runs could write the same files.
func lockFile(*os.File) (held bool, err error) {
	return false, fmt.Errorf("file locks are not supported on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
