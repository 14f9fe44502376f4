//go:build !unix

package file

import (
	"context"
	"os"
)

// waiter reads or writes a pipe or a terminal. On this system a call that has begun goes on waiting
// after ctx has ended.
type waiter struct{ f *os.File }

func newWaiter(f *os.File) (*waiter, error) { return &waiter{f: f}, nil }

// read implements input.
func (w *waiter) read(ctx context.Context, p []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return w.f.Read(p)
}

// write is io.Writer's Write.
func (w *waiter) write(ctx context.Context, p []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return w.f.Write(p)
}

func (w *waiter) close() error { return nil }
