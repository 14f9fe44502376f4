package brief

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCut(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"", 0, ""},
		{"as it is", 8, "as it is"},
		{strings.Repeat("x", 100), 40, "xxxxxxxxxxxx ... (cut; it has 100 bytes)"},
		{strings.Repeat("é", 50), 40, "éééééé ... (cut; it has 100 bytes)"},
		{strings.Repeat("€", 34), 40, "€€€€ ... (cut; it has 102 bytes)"},
		{strings.Repeat("😀", 25), 40, "😀😀😀 ... (cut; it has 100 bytes)"},
		{strings.Repeat("\x80", 100), 40, strings.Repeat("\x80", 9) + " ... (cut; it has 100 bytes)"},
		{strings.Repeat("x", 100), 5, " ... (cut; it has 100 bytes)"},
	} {
		got := Cut(c.text, c.most)
		if got != c.want || utf8.ValidString(c.text) && !utf8.ValidString(got) {
			t.Errorf("%.20q at %d: %q, want %q", c.text, c.most, got, c.want)
		}
	}
	if n := len(Text(strings.Repeat("😀", 1<<20))); n > Most || n < Most-utf8.UTFMax {
		t.Errorf("%d bytes are kept of a long text", n)
	}
}

func TestError(t *testing.T) {
	if Error(nil) != nil || Error(io.EOF) != io.EOF {
		t.Error("a short error did not stay the same")
	}
	long := Error(fmt.Errorf("%s: %w", strings.Repeat("x", 1<<20), io.EOF))
	if len(long.Error()) != Most || !errors.Is(long, io.EOF) || !strings.Contains(long.Error(), "it has 10485") {
		t.Errorf("%d bytes, %v", len(long.Error()), errors.Is(long, io.EOF))
	}
}
