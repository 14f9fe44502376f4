package file

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// ChangedError says that a file has changed since a run began to read it. It is not a record's
// fault, and a restart does not help, so the job ends.
type ChangedError struct {
	// Path is the file's.
	Path string
	// Change says what is different.
	Change string
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("file: %s %s; put the old one back, or start afresh", e.Path, e.Change)
}

// Verdict makes a ChangedError an async.Failure.
func (e *ChangedError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// sight is what was seen of a file when it was last found to be the right one.
type sight struct {
	info os.FileInfo
	// prefix and tail are the checksums of what was cut (look).
	prefix, tail string
	grown        bool // its growth was logged
}

// settle is how long a file may look rewritten while bytes are appended to it, because its time is
// set before its size.
const settle = 50 * time.Millisecond

// unchanged returns an error if an open file is not the one that was last seen, or was written to
// since, except at its end. It cannot notice a write within one tick of the file system's clock, or
// a file whose time was set back.
func (s *Source[T]) unchanged(ctx context.Context, f *os.File, c cut) error {
	for again := false; ; again = true {
		err, written := s.compare(f, c)
		if err == nil || !written || again {
			return err
		}
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// compare looks once for unchanged. written says that the file has not grown but has another time.
func (s *Source[T]) compare(f *os.File, c cut) (err error, written bool) {
	s.mu.Lock() // so that looks at a file follow each other
	defer s.mu.Unlock()
	now, err := f.Stat()
	if err != nil {
		return fmt.Errorf("file: %w", err), false
	}
	was := s.seen[c.Path]
	switch {
	case was == nil: // a split that was cut by another process, and not verified by this one
		l, err := lookAt(f, c.Size)
		if err == nil {
			err = l.suits(c, c.Size)
		}
		if err == nil {
			s.see(c.Path, l)
		}
		return err, false
	case !os.SameFile(was.info, now):
		return &ChangedError{c.Path, "was replaced by another file while the job ran"}, false
	case now.Size() < c.Size:
		return shrunk(c, now.Size()), false
	case now.Size() == was.info.Size() && now.ModTime().Equal(was.info.ModTime()):
		return nil, false
	case now.Size() <= was.info.Size():
		return rewritten(c, was.info, now), true
	}
	l, err := lookAt(f, c.Size)
	if err != nil {
		return err, false
	}
	if l.prefix != was.prefix || l.tail != was.tail {
		return &ChangedError{c.Path, fmt.Sprintf("was written to while the job ran: it has grown from %d to %d bytes, and its earlier bytes have changed", was.info.Size(), now.Size())}, false
	}
	if !was.grown {
		s.grew(c, now.Size())
	}
	was.info, was.grown = l.info, true
	return nil, false
}

// see remembers a file. The source is locked.
func (s *Source[T]) see(path string, l look) {
	if s.seen == nil {
		s.seen = map[string]*sight{}
	}
	s.seen[path] = &sight{info: l.info, prefix: l.prefix, tail: l.tail}
}

// between returns an error if a file was rewritten since the attempt before, or since it was cut. A
// new file of the same name is accepted here, because a folder may have been mounted again.
func (s *Source[T]) between(c cut, now look) error {
	s.mu.Lock()
	was := s.seen[c.Path]
	s.mu.Unlock()
	switch {
	case now.info.Size() > c.Size:
		s.grew(c, now.info.Size())
	case was != nil && os.SameFile(was.info, now.info) && !was.info.ModTime().Equal(now.info.ModTime()):
		return rewritten(c, was.info, now.info)
	}
	return nil
}

func rewritten(c cut, was, now os.FileInfo) error {
	return &ChangedError{c.Path, fmt.Sprintf(
		"was written to while the job ran, and not at its end: it has %d bytes and had %d, and was changed at %s, and before that at %s",
		now.Size(), was.Size(), now.ModTime().Format(time.RFC3339Nano), was.ModTime().Format(time.RFC3339Nano))}
}

func (s *Source[T]) grew(c cut, size int64) {
	s.warn("a file has grown since the run began; the run reads it up to the size it had then", "file", c.Path, "was", c.Size, "is", size)
}

// suits returns an error if a file is not the one that was cut, or has less than need bytes.
func (l *look) suits(c cut, need int64) error {
	switch {
	case l.info.Size() < need:
		return shrunk(c, l.info.Size())
	case l.prefix != c.Prefix:
		return &ChangedError{c.Path, "is not the file that was being read: its beginning has changed"}
	case c.Tail != "" && l.tail != "" && l.tail != c.Tail:
		return &ChangedError{c.Path, fmt.Sprintf("is not the file that was being read: its content before byte %d, where it ended, has changed", c.Size)}
	}
	return nil
}

func shrunk(c cut, size int64) error {
	return &ChangedError{c.Path, fmt.Sprintf("has shrunk to %d bytes; it had %d when it was cut into splits", size, c.Size)}
}
