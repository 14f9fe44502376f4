package main

import (
	"fmt"
	"strings"
	"testing"
)

// screen is a terminal that knows the few sequences that view writes.
type screen struct {
	rows []string
	row  int
}

func (s *screen) Write(p []byte) (int, error) {
	for rest := string(p); rest != ""; {
		switch {
		case strings.HasPrefix(rest, "\x1b[A"):
			s.row, rest = s.row-1, rest[3:]
			if s.row < 0 {
				return 0, fmt.Errorf("the cursor left the screen")
			}
		case strings.HasPrefix(rest, "\r\x1b[J"):
			s.rows, rest = s.rows[:s.row], rest[4:]
		default:
			line, after, whole := strings.Cut(rest, "\n")
			if !whole || strings.Contains(line, "\x1b") {
				return 0, fmt.Errorf("not a whole plain line: %q", rest)
			}
			if s.row != len(s.rows) {
				return 0, fmt.Errorf("%q would be written over %q", line, s.rows[s.row])
			}
			s.rows = append(s.rows, line)
			s.row, rest = s.row+1, after
		}
	}
	return len(p), nil
}

func TestViewKeepsItsBlockAtTheBottom(t *testing.T) {
	s := &screen{}
	v := newView(s, func() int { return 20 })
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
}
