package file

import (
	"context"
	"io"
	"strings"
	"testing"
)

// given is an input that gives as much as is asked for.
type given struct{ io.Reader }

func (g given) read(_ context.Context, p []byte) (int, error) { return g.Read(p) }

// TestOneLongLine: the short lines after a long one do not keep its large buffer alive.
func TestOneLongLine(t *testing.T) {
	const long = 4 << 20
	short := strings.Repeat("1", 99)
	all := strings.Repeat(short+"\n", 1000) + strings.Repeat("2", long) + "\n" + strings.Repeat(short+"\n", 200_000)
	l := newLines(given{strings.NewReader(all)}, 0, 16<<20)
	behind := 0
	for n := 0; ; n++ {
		line, at, err := l.next(ctx, true)
		if err == io.EOF {
			if n != 201_001 {
				t.Errorf("%d lines", n)
			}
			break
		}
		if err != nil || n != 1000 && string(line) != short || all[at:][:len(line)] != string(line) {
			t.Fatalf("line %d, %d bytes: %v", n, len(line), err)
		}
		if n > 1000 && len(l.buf) > 2*chunk {
			behind++
			if &line[0] == &l.buf[l.start-len(line)-1] {
				t.Fatalf("line %d keeps the %d bytes of a long one's buffer", n, len(l.buf))
			}
		}
	}
	if behind == 0 {
		t.Error("no line was read into the buffer of the long one")
	}
	if len(l.buf) > 4*(chunk+minRead) {
		t.Errorf("the buffer has %d bytes", len(l.buf))
	}
}
