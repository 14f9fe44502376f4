package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal makes a terminal. It returns the user's end, and the end to which programs write.
func terminal(t *testing.T) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	fd := int(screen.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)); err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	tty.Fd() // blocks from now on, as the terminal that a shell hands over
	return screen, tty
}

// TestTerminalThatNobodyReads: like a full pipe, a full terminal holds a job up for as long as its
// context lasts, and no longer. Bytes that were written are not written again.
func TestTerminalThatNobodyReads(t *testing.T) {
	screen, tty := terminal(t)
	c, err := NewStdout(StdoutConfig[json.RawMessage]{Encode: RawLine, Output: tty}).Committer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Repeat(strings.Repeat("1", 99)+"\n", 10_000)
	plan := append(binary.LittleEndian.AppendUint64(nil, 1), lines...)
	read := make(chan int, 1)
	for i := range 2 {
		limited, cancel := context.WithCancel(ctx)
		full := time.AfterFunc(50*time.Millisecond, cancel)
		defer full.Stop()
		if err := c.Commit(limited, plan); err != context.Canceled {
			t.Fatalf("commit %d into a full terminal ended with %v", i, err)
		}
	}
	if flags, err := unix.FcntlInt(tty.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("the terminal that others write to has the flags %#x, %v", flags, err)
	}
	go func() {
		var n int
		buf := make([]byte, 4096)
		for n < len(lines) {
			m, err := screen.Read(buf)
			if err != nil {
				break
			}
			n += m - bytes.Count(buf[:m], []byte{'\r'}) // which the terminal adds
		}
		read <- n
	}()
	if err := c.Commit(ctx, plan); err != nil {
		t.Fatal(err)
	}
	if n := <-read; n != len(lines) {
		t.Errorf("%d bytes were written, want %d", n, len(lines))
	}
}

// TestTerminalOfAnother: a terminal that cannot be opened once more is written to byte by byte.
func TestTerminalOfAnother(t *testing.T) {
	_, tty := terminal(t)
	w, err := newWaiter(tty)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	limited, cancel := context.WithCancel(ctx)
	full := time.AfterFunc(200*time.Millisecond, cancel)
	defer full.Stop()
	if n, err := w.pieces(limited, bytes.Repeat([]byte{'1'}, 1<<20), 1); err != context.Canceled || n == 0 {
		t.Errorf("%d bytes, %v", n, err)
	}
}
