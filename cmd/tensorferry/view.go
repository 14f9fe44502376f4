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
// Other output, such as log lines, goes through Write, which puts it above the block.
// It is safe for concurrent use.
type view struct {
	out  io.Writer
	size func() (width, height int)

	mu    sync.Mutex
	lines []string
	drawn []int // the lengths of the lines of the block on the screen
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

// clear removes the block.
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

// erase clears the block's lines, from the last to the first, and leaves the cursor there. A
// terminal that has become narrower has wrapped long lines. (Clearing the screen from the first
// line on would be shorter, but some terminals would keep each cleared block in their history.)
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

// draw writes the block. It cuts lines that would wrap, and a block that is taller than the
// terminal, because erase could not find the block's rows otherwise.
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

// In a block, the column at which items begin, and the most lines of one item.
const (
	itemColumn = 15
	itemLines  = 3
)

// wrap puts items behind a label, in as many lines as they need at a width. A long item is broken
// between words. If it is too long for itemLines, it ends in three dots.
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
