package file

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

const (
	// prefixSize is how much of a file's beginning tells it from another one.
	prefixSize = 64 << 10
	// tailSize is how much before the end that a file had does, and how much before a position
	// (at least; up to twice as much).
	tailSize = 4 << 10
)

// look is what one look at a file shows.
type look struct {
	info os.FileInfo
	// head is its beginning: its first 64 KiB, or all of it if it had no more when its size was
	// the one that was given. prefix is the checksum of head, and tail that of what lies before
	// that size; empty if the file is shorter now.
	head         []byte
	prefix, tail string
}

// lookAt looks at a file that had the given size; -1: the one that it has.
func lookAt(f *os.File, size int64) (l look, err error) {
	if l.info, err = f.Stat(); err != nil {
		return l, fmt.Errorf("file: %w", err)
	}
	now := l.info.Size()
	if size < 0 {
		size = now
	}
	now = min(now, size)
	l.head = make([]byte, min(prefixSize, now))
	if _, err := f.ReadAt(l.head, 0); err != nil {
		return l, fmt.Errorf("file: reading %s: %w", f.Name(), err)
	}
	l.prefix = checksum(l.head, 16)
	if now == size {
		before := make([]byte, min(tailSize, size))
		if _, err := f.ReadAt(before, size-int64(len(before))); err != nil {
			return l, fmt.Errorf("file: reading %s: %w", f.Name(), err)
		}
		l.tail = checksum(before, 8)
	}
	return l, nil
}

func checksum(b []byte, n int) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:n])
}

// stretch is a checksum of what was read last: of the bytes from From to At.
type stretch struct {
	From int64  `json:"from"`
	At   int64  `json:"at"`
	Sum  uint32 `json:"sum"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// add takes what was read up to a position, or the last of it.
func (s *stretch) add(read []byte, at int64) {
	read = read[max(0, len(read)-tailSize):]
	if from := at - int64(len(read)); from != s.At || len(read) == tailSize || at-s.From > 2*tailSize {
		*s = stretch{From: from}
	}
	s.At, s.Sum = at, crc32.Update(s.Sum, castagnoli, read)
}

// in reports whether a file holds what was read.
func (s *stretch) in(f *os.File) (bool, error) {
	if s.From < 0 || s.At < s.From || s.At-s.From > 2*tailSize {
		return false, nil
	}
	b := make([]byte, s.At-s.From)
	if _, err := f.ReadAt(b, s.From); err == io.EOF {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("file: reading %s: %w", f.Name(), err)
	}
	return crc32.Checksum(b, castagnoli) == s.Sum, nil
}
