package file

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// Defaults of SourceConfig.
const (
	DefaultSplitSize = 16 << 20
	DefaultMaxLine   = 16 << 20
)

// SourceConfig describes a source of files. Paths and Decode must be set.
type SourceConfig[T any] struct {
	// Paths are files or patterns, which are read in the given order. The files that one
	// pattern matches are read in the order of their paths, byte by byte.
	//
	// An element of a pattern is as in filepath.Match, with two differences. Only an element
	// that begins with a dot matches a name that begins with a dot. The element ** stands for
	// any number of folders, also for none; it leaves out hidden folders and links to folders.
	// Patterns that a shell would understand otherwise are errors: ** beside other characters,
	// {a,b}, [!a] and [[:digit:]].
	//
	// A file is read once, under the first of its names, if several names or links lead to it.
	// A path that names nothing is an error.
	Paths []string
	// Decode makes a record's value of a line.
	Decode Decode[T]
	// SplitSize is how many bytes of a file make a split. Default 16 MiB.
	SplitSize int64
	// MaxLine is the largest size of a line, in bytes. A longer line fails. Default 16 MiB.
	MaxLine int
	// Time returns a record's event time, or async.NoTime. A time that is out of range counts
	// as none. Time is called from several goroutines. Default: records have no time.
	Time func(T) (async.EventTime, error)
	// Logger receives a warning when a run goes on and its files have grown, or the paths match
	// more files than before. The run does not read these additions. Default: nothing is
	// logged.
	Logger *slog.Logger
}

func (c SourceConfig[T]) resolve() (SourceConfig[T], error) {
	var errs []error
	if c.Decode == nil {
		errs = append(errs, errNoDecode)
	}
	if c.SplitSize == 0 {
		c.SplitSize = DefaultSplitSize
	}
	if c.SplitSize < 1 {
		errs = append(errs, fmt.Errorf("file: the split size is %d; want 1 or more bytes, or 0 for %d", c.SplitSize, DefaultSplitSize))
	}
	var err error
	c.MaxLine, err = maxLine(c.MaxLine)
	return c, errors.Join(append(errs, err)...)
}

var errNoDecode = errors.New("file: the source has no Decode; set one, such as file.JSON or file.Raw")

func maxLine(n int) (int, error) {
	if n == 0 {
		return DefaultMaxLine, nil
	}
	if n < 1 || n > math.MaxInt32 {
		return n, fmt.Errorf("file: the bound of a line is %d; want 1 to %d bytes, or 0 for %d", n, math.MaxInt32, DefaultMaxLine)
	}
	return n, nil
}

// Source reads files of lines. It is safe for concurrent use.
type Source[T any] struct {
	config SourceConfig[T]

	mu    sync.Mutex
	files []string // of the splits, by their numbers
	seen  map[string]*sight
}

// File returns the path of a split's file, by the split's number in the job that was started last.
func (s *Source[T]) File(split int) (path string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if split < 0 || split >= len(s.files) {
		return "", false
	}
	return s.files[split], true
}

// keep remembers the files of splits as they are at the beginning of an attempt.
func (s *Source[T]) keep(files []string, seen map[string]look) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = files
	for path, l := range seen {
		s.see(path, l)
	}
}

// NewSource returns a source. A mistake in the configuration is reported when the job starts.
func NewSource[T any](c SourceConfig[T]) *Source[T] { return &Source[T]{config: c} }

// Validate says what is wrong with the configuration. It does not open files.
func (s *Source[T]) Validate() error {
	_, err := s.config.resolve()
	errs := []error{err}
	for _, path := range s.config.Paths {
		if _, _, err := s.elements(path); err != nil {
			errs = append(errs, fmt.Errorf("file: the pattern %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// cut is what a checkpoint keeps of a split: a byte range of a file as it was.
type cut struct {
	Path string `json:"path"`
	// Size is the size of the file when it was cut. Bytes that are appended later are not read.
	Size int64 `json:"size"`
	// The split has the lines that begin in [Start, End).
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	// Prefix is the checksum of the file's beginning, and Tail that of the bytes before its end.
	// Checkpoints of earlier versions have no Tail.
	Prefix string `json:"prefix"`
	Tail   string `json:"tail,omitempty"`
	// Read is a checksum of the bytes that were read before the position in a checkpoint.
	Read *stretch `json:"read,omitempty"`
}

// Splits implements connector.Source. It refuses files that clearly do not hold lines.
func (s *Source[T]) Splits(ctx context.Context) ([]connector.Split, error) {
	c, err := s.config.resolve()
	if err != nil {
		return nil, err
	}
	all, err := s.expand(ctx)
	if err != nil {
		return nil, err
	}
	var splits []connector.Split
	var files []string
	seen := map[string]look{}
	for _, found := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l, err := firstLook(found.path)
		if err != nil {
			return nil, err
		}
		for start, size := int64(0), l.info.Size(); start < size; {
			end := size
			if size-start > c.SplitSize {
				end = start + c.SplitSize
			}
			data, err := json.Marshal(cut{Path: found.path, Size: size, Start: start, End: end, Prefix: l.prefix, Tail: l.tail})
			if err != nil {
				return nil, err
			}
			splits, files = append(splits, connector.Split{Data: data, Start: start}), append(files, found.path)
			start = end
		}
		l.head = nil
		seen[found.path] = l
	}
	s.keep(files, seen)
	return splits, nil
}

// firstLook looks at a file that is to be cut.
func firstLook(path string) (look, error) {
	f, err := os.Open(path)
	if err != nil {
		return look{}, fmt.Errorf("file: %w", err)
	}
	defer f.Close()
	l, err := lookAt(f, -1)
	if err != nil {
		return l, err
	}
	if kind := foreign(l.head); kind != "" {
		return l, &foreignError{path, kind}
	}
	return l, nil
}

// Verify implements connector.Source. It refuses a file that is gone, and a file that is too short
// for what is still to be read. It refuses a file that has changed, which it notices at the file's
// beginning, before its end and before the position. It accepts a file that has grown, and new
// files that the paths match, but the run does not read these additions. It logs a warning for
// them.
func (s *Source[T]) Verify(ctx context.Context, splits []connector.Split, next []int64) error {
	if len(splits) != len(next) {
		return fmt.Errorf("file: %d splits and %d positions; want one for each", len(splits), len(next))
	}
	seen := map[string]look{}
	var names []string
	var known fileSet
	var f *os.File // usually still open from the split before
	defer func() { f.Close() }()
	for i, split := range splits {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := parseCut(split)
		if err != nil {
			return err
		}
		names = append(names, c.Path)
		if f == nil || f.Name() != c.Path {
			f.Close()
			if f, err = os.Open(c.Path); err != nil {
				return fmt.Errorf("file: %w; the job cannot go on without this file: put it back, or start afresh", err)
			}
		}
		l, ok := seen[c.Path]
		if !ok {
			if l, err = lookAt(f, c.Size); err != nil {
				return err
			}
			l.head = nil // the kind of the file was checked when it was cut
			seen[c.Path] = l
			known.add(found{c.Path, l.info})
		}
		need := next[i]
		if next[i] < c.End {
			need = c.Size // the last line that begins in the split may reach that far
		}
		err = l.suits(c, need)
		if err == nil && !ok {
			err = s.between(c, l)
		}
		if err != nil {
			return err
		}
		if c.Read != nil && c.Read.At <= next[i] {
			same, err := c.Read.in(f)
			if err != nil {
				return err
			}
			if !same {
				return &ChangedError{c.Path, fmt.Sprintf("is not the file that was being read: its content before byte %d, up to which it was read, has changed", c.Read.At)}
			}
		}
	}
	s.keep(names, seen)
	if s.config.Logger == nil {
		return nil
	}
	now, err := s.expand(ctx)
	if err != nil && len(now) == 0 {
		return nil // missing files were reported above
	}
	for _, f := range now {
		if _, ok := known.has(f.info); !ok && f.info.Size() > 0 {
			s.warn("a file has come since the run began; the run does not read it", "file", f.path)
		}
	}
	return nil
}

func (s *Source[T]) warn(message string, args ...any) {
	if s.config.Logger != nil {
		guard.Logger(s.config.Logger).Warn("file: "+message, args...)
	}
}

// Open implements connector.Source.
func (s *Source[T]) Open(ctx context.Context, split connector.Split, position int64) (connector.Reader[T], error) {
	config, err := s.config.resolve()
	if err != nil {
		return nil, err
	}
	c, err := parseCut(split)
	if err != nil {
		return nil, err
	}
	if position < c.Start || position > c.Size {
		return nil, fmt.Errorf("file: position %d is outside the split from byte %d to %d of %s", position, c.Start, c.End, c.Path)
	}
	var last []byte
	if c.Read != nil {
		c.Read, last = nil, bytes.Clone(split.Data)
	}
	bare, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(c.Path)
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	if err := s.unchanged(ctx, f, c); err != nil {
		f.Close()
		return nil, err
	}
	begin := position
	if position == c.Start && position > 0 {
		// The range may begin inside a line. That line belongs to the split before.
		if begin, err = firstLine(f, c); err != nil {
			f.Close()
			return nil, err
		}
	}
	r := &reader[T]{
		name:   c.Path,
		lines:  newLines(&section{f: f, cut: c, pos: begin}, begin, config.MaxLine),
		end:    c.End,
		number: func(offset int64) int64 { return lineNumber(f, offset) },
		decode: decoder[T]{config.Decode, config.Time},
		atEnd:  func(ctx context.Context) error { return s.unchanged(ctx, f, c) },
		close:  f.Close,
	}
	return &cutReader[T]{r, bytes.TrimSuffix(bare, []byte("}")), last}, nil
}

func parseCut(split connector.Split) (cut, error) {
	var c cut
	if err := json.Unmarshal(split.Data, &c); err != nil {
		return c, fmt.Errorf("file: the split's description is damaged: %w", err)
	}
	if c.Path == "" || c.Start < 0 || c.End < c.Start || c.Size < c.End {
		return c, fmt.Errorf("file: the split's description is damaged: bytes %d to %d of %d in %q", c.Start, c.End, c.Size, c.Path)
	}
	return c, nil
}
