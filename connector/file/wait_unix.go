//go:build unix

package file

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// waiter reads a pipe or a terminal, and stops waiting for it when asked to,
// without a goroutine that waits on. Closing the file would not do: standard
// input is not ours to close, and may block a read for ever all the same.
type waiter struct {
	f          *os.File
	wake, bell *os.File // a pipe; a byte in it ends the wait
}

func newWaiter(f *os.File) (*waiter, error) {
	wake, bell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &waiter{f: f, wake: wake, bell: bell}, nil
}

// read implements input.
func (w *waiter) read(ctx context.Context, p []byte) (int, error) {
	if err := w.wait(ctx); err != nil {
		return 0, err
	}
	return w.f.Read(p)
}

// wait returns when there is something to read, and ctx.Err() when ctx ends.
func (w *waiter) wait(ctx context.Context) error {
	rung := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(rung)
		w.bell.Write([]byte{0}) // the pipe has room: it is written once for each wait
	})
	defer func() {
		if !stop() {
			<-rung
		}
	}()
	fds := []unix.PollFd{{Fd: int32(w.f.Fd()), Events: unix.POLLIN}, {Fd: int32(w.wake.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case fds[0].Revents != 0: // input, its end, or an error, which reading will tell
			return nil
		}
	}
}

func (w *waiter) close() error { return errors.Join(w.wake.Close(), w.bell.Close()) }
