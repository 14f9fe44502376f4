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
	// prefixSize is how many bytes at a file's beginning distinguish it from other files.
	prefixSize = 64 << 10
	// tailSize is how many bytes before the end that a file had do the same. It is also the least
	// number of bytes before a position that do; there may be up to twice as many.
	tailSize = 4 << 10
)

// look is what one look at a file shows.
type look struct {
	info os.FileInfo
	// head is the file's beginning: the first 64 KiB, or as much as there was at the given size.
	// prefix is the checksum of head. tail is the checksum of the bytes before the given size, or
	// empty if the file is shorter now.
	head         []byte
	prefix, tail string
}

// lookAt looks at a file that had the given size. -1 stands for its present size.
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

// stretch is a checksum of the bytes that were read last, from From to At.
type stretch struct {
	From int64  `json:"from"`
	At   int64  `json:"at"`
	Sum  uint32 `json:"sum"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// add takes the bytes that were read up to the position at, or the last of them.
func (s *stretch) add(read []byte, at int64) {
	read = read[max(0, len(read)-tailSize):]
	if from := at - int64(len(read)); from != s.At || len(read) == tailSize || at-s.From > 2*tailSize {
		*s = stretch{From: from}
	}
	s.At, s.Sum = at, crc32.Update(s.Sum, castagnoli, read)
}

// in reports whether a file still holds the bytes that were read.
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
