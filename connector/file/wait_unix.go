//go:build unix

package file

import (
	"context"
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// waiter reads or writes a pipe or a terminal, and stops waiting for it when asked to, without a
// goroutine that waits on. Closing the file would not do: standard input and output are not ours to
// close, and may block for ever all the same.
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
	if err := w.wait(ctx, unix.POLLIN); err != nil {
		return 0, err
	}
	return w.f.Read(p)
}

// write is io.Writer's Write, and ends with ctx. Who is told that a pipe can be written to may
// write so much at once, and no more, without having to wait.
func (w *waiter) write(ctx context.Context, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		if err = w.wait(ctx, unix.POLLOUT); err == nil {
			var m int
			m, err = w.f.Write(p[n:min(n+atOnce, len(p))])
			n += m
		}
	}
	return n, err
}

// atOnce is PIPE_BUF of the system, or less.
var atOnce = func() int {
	if runtime.GOOS == "linux" {
		return 4096
	}
	return 512
}()

// wait returns when there is something to read, or room to write, and ctx.Err() when ctx ends.
func (w *waiter) wait(ctx context.Context, events int16) error {
	rung := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(rung)
		_, _ = w.bell.Write([]byte{0}) // the pipe has room: it is written once for each wait
	})
	defer func() {
		if !stop() {
			<-rung
		}
	}()
	fds := []unix.PollFd{{Fd: int32(w.f.Fd()), Events: events}, {Fd: int32(w.wake.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case fds[0].Revents != 0: // what was waited for, or an end or an error, which the call will tell
			return nil
		}
	}
}

func (w *waiter) close() error { return errors.Join(w.wake.Close(), w.bell.Close()) }
