package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

// view keeps a block of lines at the bottom of a terminal, redrawn in place.
// What else goes to the terminal meanwhile (log lines) goes through Write, which
// puts it above the block. It is safe for concurrent use.
type view struct {
	out  io.Writer
	size func() (width, height int)

	mu    sync.Mutex
	lines []string
	drawn []int // how long the lines of the block on the screen are
	buf   bytes.Buffer
}

func newView(out io.Writer, size func() (width, height int)) *view {
	return &view{out: out, size: size}
}

// show replaces the block.
func (v *view) show(lines ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lines = append(v.lines[:0], lines...)
	v.erase()
	v.draw()
	_ = v.flush()
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

// erase clears the block's lines, from its last to its first, where it leaves the cursor. A
// terminal that has become narrower since has broken lines in two. (To clear the screen from the
// first line on would be shorter; but some terminals keep what is cleared from their top on, and
// would keep block after block.)
func (v *view) erase() {
	if len(v.drawn) == 0 {
		return
	}
	width, _ := v.size()
	v.buf.WriteString("\r\x1b[2K") // a terminal writes ^C where the cursor is
	for _, n := range v.drawn {
		for range max(1, (n+width-1)/max(width, 1)) {
			v.buf.WriteString("\x1b[A\x1b[2K")
		}
	}
	v.drawn = v.drawn[:0]
}

// draw writes the block. A line that would wrap is cut, because a wrapped one takes two rows and
// the block could not be found again; so is a block that is taller than the terminal.
func (v *view) draw() {
	width, height := v.size()
	for _, l := range v.lines[:min(len(v.lines), max(height-1, 1))] {
		l = cut(l, width-1)
		v.buf.WriteString(l)
		v.buf.WriteByte('\n')
		v.drawn = append(v.drawn, utf8.RuneCountInString(l))
	}
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

// Of the lines of a block: where items begin, and how many lines one item may have.
const (
	itemColumn = 15
	itemLines  = 3
)

// wrap sets items behind a label, in as many lines as they need at a width. A long item is broken
// between words, and ends in three dots where it is too long for that.
func wrap(label string, width int, items ...string) (lines []string) {
	column := itemColumn
	if width < 40 {
		// The label has a line of its own.
		lines, label, column = append(lines, label), "", 4
	}
	room := max(width-1-column, 8)
	line := ""
	flush := func() {
		lines = append(lines, fmt.Sprintf("%-*s%s", column, label, line))
		label, line = "", ""
	}
	add := func(part string) {
		if line != "" && utf8.RuneCountInString(line)+3+utf8.RuneCountInString(part) > room {
			flush()
		}
		if line != "" {
			line += "   "
		}
		line += part
	}
	for _, item := range items {
		item = cut(item, 0)
		for n := 1; utf8.RuneCountInString(item) > room; n++ {
			part := breakAt(item, room)
			item = strings.TrimLeft(item[len(part):], " ")
			if n == itemLines {
				part, item = cut(part, room-3)+"...", ""
			}
			add(part)
		}
		if item != "" {
			add(item)
		}
	}
	flush()
	return lines
}

// breakAt returns as much of s, up to n characters, as ends with a word.
func breakAt(s string, n int) string {
	s = string([]rune(s)[:n])
	if i := strings.LastIndexByte(s, ' '); i > n/2 {
		return s[:i]
	}
	return s
}
