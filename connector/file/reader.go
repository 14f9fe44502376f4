package file

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/tensorferry/tensorferry/async"
)

// LineError says which line of an input cannot be a record, and why. It is the record's own fault,
// so the job ends without a restart.
type LineError struct {
	// Path is the file's.
	Path string
	// Offset is the byte at which the line begins.
	Offset int64
	// Line is the number of the line, from 1 on. It is 0 if counting would take too long.
	Line int64
	// Err says what is wrong with the line.
	Err error
}

func (e *LineError) Error() string {
	where := fmt.Sprintf("byte %d", e.Offset)
	if e.Line > 0 {
		where = fmt.Sprintf("line %d (byte %d)", e.Line, e.Offset)
	}
	return fmt.Sprintf("file: %s, %s: %v", e.Path, where, e.Err)
}

func (e *LineError) Unwrap() error { return e.Err }

// Verdict makes a LineError an async.Failure.
func (e *LineError) Verdict() async.Verdict { return async.Verdict{Class: async.BadRecord} }

// reader makes records of lines.
type reader[T any] struct {
	name  string
	lines *lines
	end   int64 // lines that begin here or later belong to another split
	taken int64 // lines so far
	// number returns the number of the line at offset. It is nil if lines are read from the first
	// one on.
	number func(offset int64) int64
	decode decoder[T]
	// atEnd, if set, checks at the end whether the input was still the right one.
	atEnd func(context.Context) error
	// sniff: check whether the input holds lines before the first record is read.
	sniff bool
	read  stretch // up to the end of the last Read
	close func() error
	// failed is what the next Read returns, after the records before it.
	failed error
}

var byteOrderMark = []byte("\ufeff")

// Read implements connector.Reader.
func (r *reader[T]) Read(ctx context.Context, dst []async.Record[T], most int) ([]async.Record[T], int64, error) {
	next := r.lines.offset
	if r.failed != nil {
		return dst, next, r.failed
	}
	if err := ctx.Err(); err != nil {
		return dst, next, err
	}
	before, from := len(dst), next
	for len(dst)-before < max(most, 1) {
		if r.lines.offset >= r.end {
			return r.over(ctx, dst, from)
		}
		line, at, err := r.lines.next(ctx, len(dst) == before)
		if err == io.EOF {
			return r.over(ctx, dst, from)
		}
		if err == errNoLine {
			break
		}
		_, long := err.(longLine)
		if r.sniff && (err == nil || long) {
			r.sniff = false
			if kind := foreign(r.lines.buf[:r.lines.end]); kind != "" {
				return r.fail(dst, before, from, next, &foreignError{r.name, kind})
			}
		}
		if long {
			r.taken++
			return r.fail(dst, before, from, next, &LineError{Path: r.name, Offset: at, Line: r.line(at), Err: err})
		}
		if err != nil {
			if _, changed := err.(*ChangedError); ctx.Err() == nil && !changed {
				err = fmt.Errorf("file: reading %s at byte %d: %w", r.name, at, err)
			}
			return dst, next, err
		}
		r.taken++
		if at == 0 {
			line = bytes.TrimPrefix(line, byteOrderMark)
		}
		if line = trim(line); len(line) > 0 {
			dst = append(dst, async.Record[T]{Position: at})
			if err := r.decode.record(&dst[len(dst)-1], line); err != nil {
				dst = dst[:len(dst)-1]
				err = fmt.Errorf("%w; correct or remove the line", err)
				return r.fail(dst, before, from, next, &LineError{Path: r.name, Offset: at, Line: r.line(at), Err: err})
			}
		}
		next = r.lines.offset
	}
	r.reached(from, next)
	return dst, next, nil
}

// reached remembers the bytes that were read from one position to the next. r.lines may have read
// further.
func (r *reader[T]) reached(from, next int64) {
	read := r.lines.since(from)
	r.read.add(read[:max(0, len(read)-int(r.lines.offset-next))], next)
}

// over ends the last Read, which began at from.
func (r *reader[T]) over(ctx context.Context, dst []async.Record[T], from int64) ([]async.Record[T], int64, error) {
	next := r.lines.offset
	r.reached(from, next)
	if r.atEnd != nil {
		if err := r.atEnd(ctx); err != nil {
			return dst, next, err
		}
	}
	return dst, next, io.EOF
}

func (r *reader[T]) line(offset int64) int64 {
	if r.number == nil {
		return r.taken
	}
	return r.number(offset)
}

// fail returns err, after the records that were read before it.
func (r *reader[T]) fail(dst []async.Record[T], before int, from, next int64, err error) ([]async.Record[T], int64, error) {
	r.failed = err
	r.reached(from, next)
	if len(dst) == before {
		return dst, next, err
	}
	return dst, next, nil
}

// Close implements connector.Reader.
func (r *reader[T]) Close() error {
	if r.close == nil {
		return nil
	}
	err := r.close()
	r.close = nil
	return err
}

// cutReader reads a split of a file, and describes for checkpoints what it has read.
type cutReader[T any] struct {
	*reader[T]
	bare []byte // the split's description without Read and without the last brace
	// last is the description with the last stretch that was long enough to identify the file, or
	// nil before there is one.
	last []byte
}

// Describe implements connector.Describer.
func (r *cutReader[T]) Describe(dst []byte) []byte {
	if r.read.At-r.read.From >= tailSize {
		r.last = r.describe(r.last[:0])
	} else if r.last == nil {
		return r.describe(dst)
	}
	return append(dst, r.last...)
}

func (r *cutReader[T]) describe(dst []byte) []byte {
	dst = append(dst, r.bare...)
	if r.read.At > r.read.From {
		dst = append(strconv.AppendInt(append(dst, `,"read":{"from":`...), r.read.From, 10), `,"at":`...)
		dst = append(strconv.AppendInt(dst, r.read.At, 10), `,"sum":`...)
		dst = append(strconv.AppendUint(dst, uint64(r.read.Sum), 10), '}')
	}
	return append(dst, '}')
}

// trim cuts JSON's white space off both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[: len(b)-1 : len(b)-1]
	}
	return b
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

// section reads a file up to the size that it had when it was cut.
type section struct {
	f   *os.File
	cut cut
	pos int64
}

func (s *section) read(ctx context.Context, p []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	left := s.cut.Size - s.pos
	if left <= 0 {
		return 0, io.EOF
	}
	n, err := s.f.ReadAt(p[:min(int64(len(p)), left)], s.pos)
	s.pos += int64(n)
	if err == io.EOF {
		err = nil
		if n == 0 {
			err = shrunk(s.cut, s.pos)
		}
	}
	return n, err
}

// firstLine returns the offset of the first line that begins in the split, or the split's end if no
// line begins in it.
func firstLine(f *os.File, c cut) (int64, error) {
	buf := make([]byte, chunk)
	// A line begins after a line feed, so the search begins one byte before the split.
	for pos := c.Start - 1; pos < c.End-1; {
		n, err := f.ReadAt(buf[:min(chunk, c.End-1-pos)], pos)
		if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
			return pos + int64(i) + 1, nil
		}
		if n == 0 && err == io.EOF {
			return 0, shrunk(c, pos)
		}
		if n == 0 && err != nil {
			return 0, fmt.Errorf("file: reading %s: %w", c.Path, err)
		}
		pos += int64(n)
	}
	return c.End, nil
}

// countLimit is the offset up to which lines are counted for an error message.
const countLimit = 1 << 28

// lineNumber counts the lines of a file up to an offset.
func lineNumber(f *os.File, offset int64) int64 {
	if offset > countLimit {
		return 0
	}
	in := io.NewSectionReader(f, 0, offset)
	buf := make([]byte, chunk)
	number := int64(1)
	for {
		n, err := in.Read(buf)
		number += int64(bytes.Count(buf[:n], []byte{'\n'}))
		if err == io.EOF {
			return number
		}
		if err != nil {
			return 0
		}
	}
}
