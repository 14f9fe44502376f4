package main

import (
	"fmt"
	"strings"
	"testing"
)

// screen is a terminal that knows the few sequences that view writes. A line that is longer than
// the screen's width takes two rows.
type screen struct {
	width, height int
	rows          []string
	row           int
}

func (s *screen) size() (int, int) { return s.width, s.height }

func (s *screen) Write(p []byte) (int, error) {
	for rest := string(p); rest != ""; {
		if after, ok := strings.CutPrefix(rest, "\r\x1b[2K"); ok {
			rest = after
			continue
		}
		if after, ok := strings.CutPrefix(rest, "\x1b[A\x1b[2K"); ok {
			if s.row, rest = s.row-1, after; s.row < 0 {
				return 0, fmt.Errorf("the cursor left the screen")
			}
			s.rows = s.rows[:s.row]
			continue
		}
		line, after, whole := strings.Cut(rest, "\n")
		if !whole || strings.Contains(line, "\x1b") {
			return 0, fmt.Errorf("not a whole plain line: %q", rest)
		}
		for len(line) > s.width {
			s.rows, line = append(s.rows, line[:s.width]), line[s.width:]
		}
		s.rows = append(s.rows, line)
		s.row, rest = len(s.rows), after
	}
	return len(p), nil
}

// narrow makes the screen narrower, and wraps its lines as terminals do.
func (s *screen) narrow(width int) {
	was := s.rows
	s.rows, s.row, s.width = nil, 0, width
	for _, row := range was {
		s.Write([]byte(row + "\n"))
	}
}

func TestViewKeepsItsBlockAtTheBottom(t *testing.T) {
	s := &screen{width: 20, height: 4}
	v := newView(s, s.size)
	check := func(want ...string) {
		t.Helper()
		if strings.Join(s.rows, "|") != strings.Join(want, "|") {
			t.Errorf("the screen shows %q, want %q", s.rows, want)
		}
	}
	write := func(text string) {
		t.Helper()
		if n, err := v.Write([]byte(text)); n != len(text) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	write("before\n")
	v.show("records 1", "calls 2")
	check("before", "records 1", "calls 2")
	write("a log line\nand another")
	check("before", "a log line", "and another", "records 1", "calls 2")
	v.show("one line now, and a long one")
	check("before", "a log line", "and another", "one line now, and a")
	v.show("evil \x1b[2J\n\x00", "é", "three")
	check("before", "a log line", "and another", "evil  [2J  ", "é", "three")
	v.clear()
	check("before", "a log line", "and another")
	write("after\n")
	check("before", "a log line", "and another", "after")
	// A block is erased on a screen that has become narrower, and is not taller than the
	// screen.
	v.show("0123456789012345", "2", "3", "4", "5")
	check("before", "a log line", "and another", "after", "0123456789012345", "2", "3")
	s.narrow(11)
	v.show("short")
	check("before", "a log line", "and another", "after", "short")
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		width int
		want  string
	}{
		{80, "  label        one item   another one   and a third|"},
		{45, "  label        one item   another one|               and a third|"},
		{20, "  label|    one item|    another one|    and a third|"},
	} {
		if got := strings.Join(wrap("  label", c.width, "one item", "another one", "and a third"), "|") + "|"; got != c.want {
			t.Errorf("at %d: %q, want %q", c.width, got, c.want)
		}
	}
	long := strings.Repeat("seven  words\nof a long failure ", 20)
	for width := range 100 {
		lines := wrap("  last error", width, long)
		for _, l := range lines {
			if width >= 15 && len(l) > width-1 {
				t.Errorf("at %d the line is too long: %q", width, l)
			}
		}
		if n := len(lines); n > itemLines+1 || !strings.HasSuffix(lines[n-1], "...") {
			t.Errorf("at %d: %q", width, lines)
		}
	}
}
