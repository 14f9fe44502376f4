package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

const (
	// chunk is the size of a read buffer, unless a line needs more.
	chunk = 64 << 10
	// minRead is the least room that a read is worth.
	minRead = 8 << 10
)

// input is what lines are read from.
type input interface {
	// read is io.Reader's Read, and ends with ctx.
	read(ctx context.Context, p []byte) (int, error)
}

// lines cuts an input into lines.
type lines struct {
	in      input
	maxLine int

	buf        []byte // records keep lines of it, so each byte is written only once
	start, end int    // the bytes that are read and not yet returned
	scanned    int    // before this index there is no line feed
	offset     int64
	eof        bool
}

// errNoLine: there is no whole line in the buffer, and next must not block.
var errNoLine = errors.New("there is no whole line in the buffer")

func newLines(in input, offset int64, maxLine int) *lines {
	return &lines{in: in, offset: offset, maxLine: maxLine}
}

// next returns the next line without its line feed, and the offset at which it begins. l.offset is
// then the offset after the line. next returns io.EOF at the end. If block is false, it returns
// errNoLine instead of reading.
func (l *lines) next(ctx context.Context, block bool) (line []byte, at int64, err error) {
	for {
		if i := bytes.IndexByte(l.buf[l.scanned:l.end], '\n'); i >= 0 {
			return l.take(l.scanned+i, l.scanned+i+1)
		}
		l.scanned = l.end
		switch {
		case l.eof && l.start == l.end:
			return nil, l.offset, io.EOF
		case l.eof:
			return l.take(l.end, l.end)
		case l.end-l.start > l.maxLine+1: // the extra byte may be a carriage return at the end
			return nil, l.offset, longLine(l.maxLine)
		case !block:
			return nil, l.offset, errNoLine
		}
		if err := l.fill(ctx); err != nil {
			return nil, l.offset, err
		}
	}
}

// take returns the line that ends at to. The line after it begins at next.
func (l *lines) take(to, next int) ([]byte, int64, error) {
	line, at := l.buf[l.start:to:to], l.offset
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[: n-1 : n-1]
	}
	if len(line) > l.maxLine {
		return nil, at, longLine(l.maxLine)
	}
	if len(l.buf) > 2*chunk && len(line) < len(l.buf)/4 {
		line = bytes.Clone(line) // otherwise it would keep the large buffer of a long line alive
	}
	l.offset += int64(next - l.start)
	l.start, l.scanned = next, next
	return line, at, nil
}

// since returns the bytes that were taken since the given offset, or the last of them.
func (l *lines) since(offset int64) []byte {
	return l.buf[l.start-int(min(l.offset-offset, int64(l.start))) : l.start]
}

// longLine says that a line is beyond its bound.
type longLine int

func (n longLine) Error() string {
	return fmt.Sprintf("the line is longer than %d bytes; raise the bound of a line (max_line, in Go MaxLine), or check whether the file is JSON Lines", int(n))
}

// fill reads once and appends to the buffer.
func (l *lines) fill(ctx context.Context) error {
	if len(l.buf)-l.end < minRead {
		l.makeRoom()
	}
	n, err := l.in.read(ctx, l.buf[l.end:])
	l.end += n
	if err == io.EOF {
		l.eof = true
		return nil
	}
	return err
}

// makeRoom copies the rest to a new buffer, after the last bytes that were taken (since).
func (l *lines) makeRoom() {
	rest, kept := l.end-l.start, min(l.start, tailSize)
	to := make([]byte, max(chunk, kept+min(2*rest, l.maxLine)+minRead))
	copy(to, l.buf[l.start-kept:l.end])
	l.buf = to
	l.scanned -= l.start - kept
	l.start, l.end = kept, kept+rest
}
