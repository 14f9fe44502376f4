//go:build !unix

package file

import (
	"context"
	"os"
)

// waiter reads a pipe or a terminal. On this system a read that has begun waits
// for input even when ctx ends.
type waiter struct{ f *os.File }

func newWaiter(f *os.File) (*waiter, error) { return &waiter{f: f}, nil }

// read implements input.
func (w *waiter) read(ctx context.Context, p []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return w.f.Read(p)
}

func (w *waiter) close() error { return nil }
