//go:build !linux

package server

import (
	"errors"
	"fmt"
	"os"
)

func openObject(string) (*os.File, uint64, error) {
	return nil, 0, fmt.Errorf("shared memory on this system: %w", errors.ErrUnsupported)
}
