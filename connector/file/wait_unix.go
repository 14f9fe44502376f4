//go:build unix

package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// waiter reads or writes a pipe or a terminal. It stops waiting when ctx ends, and leaves no
// goroutine that waits on. Closing the file instead would not work: standard input and output are
// not ours to close, and a blocked call might go on for ever all the same.
type waiter struct {
	f          *os.File
	wake, bell *os.File // the ends of a pipe; a byte in it ends the wait
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

// write is io.Writer's Write, and ends with ctx.
func (w *waiter) write(ctx context.Context, p []byte) (n int, err error) {
	info, err := w.f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Mode()&os.ModeCharDevice == 0 {
		return w.pieces(ctx, p, atOnce)
	}
	if own := openAnew(w.f); own != nil {
		return writeOwn(ctx, own, p)
	}
	return w.pieces(ctx, p, 1) // a terminal that is ready takes one byte for certain, but not more
}

// pieces writes at most most bytes at once. A write of up to atOnce bytes to a pipe that is ready
// does not wait.
func (w *waiter) pieces(ctx context.Context, p []byte, most int) (n int, err error) {
	for n < len(p) && err == nil {
		if err = w.wait(ctx, unix.POLLOUT); err == nil {
			var m int
			m, err = w.f.Write(p[n:min(n+most, len(p))])
			n += m
		}
	}
	return n, err
}

// openAnew opens a terminal once more, so that its writes need not block. Whether they block is a
// property of the open file, and other programs, such as the shell, share the one that we were
// given. openAnew returns nil if it cannot open the terminal, for example one of another user.
func openAnew(f *os.File) *os.File {
	if runtime.GOOS != "linux" {
		return nil // on other systems this name leads to the same open file
	}
	own, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	return own
}

// writeOwn writes to own, which is ours alone, and closes it.
func writeOwn(ctx context.Context, own *os.File, p []byte) (n int, err error) {
	defer own.Close()
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		// An error here means a device such as /dev/null, which never blocks.
		_ = own.SetWriteDeadline(time.Unix(1, 0))
	})
	n, err = own.Write(p)
	if !stop() {
		<-stopped
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = ctx.Err()
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
		case fds[0].Revents != 0:
			// The file is ready, at its end, or has an error. The call that follows shows which.
			return nil
		}
	}
}

func (w *waiter) close() error { return errors.Join(w.wake.Close(), w.bell.Close()) }
