package main

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

// view keeps a block of lines at the bottom of a terminal, redrawn in place.
// What else goes to the terminal meanwhile (log lines) goes through Write, which
// puts it above the block. It is safe for concurrent use.
type view struct {
	out   io.Writer
	width func() int

	mu    sync.Mutex
	lines []string
	drawn int // lines of the block on the screen
	buf   bytes.Buffer
}

func newView(out io.Writer, width func() int) *view { return &view{out: out, width: width} }

// show replaces the block.
func (v *view) show(lines ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lines = append(v.lines[:0], lines...)
	v.erase()
	v.draw()
	v.flush()
}

// clear takes the block away.
func (v *view) clear() { v.show() }

// Write puts whole lines above the block.
func (v *view) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.erase()
	v.buf.Write(p)
	if !bytes.HasSuffix(p, []byte("\n")) {
		v.buf.WriteByte('\n')
	}
	v.draw()
	if err := v.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// erase moves to the block's first line and clears from there on.
func (v *view) erase() {
	for range v.drawn {
		v.buf.WriteString("\x1b[A")
	}
	if v.drawn > 0 {
		v.buf.WriteString("\r\x1b[J")
	}
	v.drawn = 0
}

// draw writes the block. A line that would wrap is cut, because a wrapped one
// takes two rows and the block could not be found again.
func (v *view) draw() {
	width := v.width()
	for _, l := range v.lines {
		v.buf.WriteString(cut(l, width-1))
		v.buf.WriteByte('\n')
	}
	v.drawn = len(v.lines)
}

func (v *view) flush() error {
	_, err := v.out.Write(v.buf.Bytes())
	v.buf.Reset()
	return err
}

// cut shortens s to n characters and makes it harmless to a terminal.
func cut(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if n < 1 || utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n])
}
