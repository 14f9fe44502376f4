package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/tensorferry/tensorferry/stream"
)

// Defaults of SourceConfig.
const (
	DefaultSplitSize = 16 << 20
	DefaultMaxLine   = 16 << 20
)

// SourceConfig describes a source of JSON Lines. Its zero value, but for Paths,
// is the documented defaults.
type SourceConfig[T any] struct {
	// Paths are files or patterns (filepath.Match), read in the order given; what
	// a pattern matches is read in the order of names. A file that several of
	// them name is read once. A path that names nothing is an error.
	Paths []string
	// SplitSize is how many bytes of a file make a split. Default 16 MiB.
	SplitSize int64
	// MaxLine bounds a line, in bytes; a longer one fails. Default 16 MiB.
	MaxLine int
	// Time returns a record's event time, or async.NoTime. One out of range is none. It is called
	// from
	// several goroutines. Default: records have no time.
	Time func(T) (stream.EventTime, error)
	// Unchecked makes raw records of all lines that are not blank, also of those that are not JSON,
	// for a job whose operators judge them. It is for NewRawSource alone. Default: such a line ends the job.
	Unchecked bool
	// Logger is told when a run goes on while its files have grown or more of them have come, which it does not read.
	// Default: nobody is.
	Logger *slog.Logger
}

func (c SourceConfig[T]) resolve() (SourceConfig[T], error) {
	var errs []error
	if c.SplitSize == 0 {
		c.SplitSize = DefaultSplitSize
	}
	if c.MaxLine == 0 {
		c.MaxLine = DefaultMaxLine
	}
	if c.SplitSize < 1 {
		errs = append(errs, fmt.Errorf("file: the split size is %d; want 1 or more bytes, or 0 for %d", c.SplitSize, DefaultSplitSize))
	}
	if c.MaxLine < 1 || c.MaxLine > math.MaxInt32 {
		errs = append(errs, fmt.Errorf("file: the bound of a line is %d; want 1 to %d bytes, or 0 for %d", c.MaxLine, math.MaxInt32, DefaultMaxLine))
	}
	return c, errors.Join(errs...)
}

// Source reads JSON Lines files. It is safe for concurrent use.
type Source[T any] struct {
	config SourceConfig[T]
	decode decoder[T]

	mu    sync.Mutex
	files []string // of the splits, by their numbers
}

// File returns the file of a split, by the split's number in the job that was started last.
func (s *Source[T]) File(split int) (path string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if split < 0 || split >= len(s.files) {
		return "", false
	}
	return s.files[split], true
}

func (s *Source[T]) keep(files []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = files
}

// JSONLines reads files whose lines are JSON values of type T, with the defaults
// of SourceConfig. Mistakes in the paths are reported when the job starts.
func JSONLines[T any](paths ...string) *Source[T] {
	return NewSource(SourceConfig[T]{Paths: paths})
}

// RawJSONLines reads files whose lines are JSON values and keeps each as it is,
// byte for byte, without white space around it.
func RawJSONLines(paths ...string) *Source[json.RawMessage] {
	return NewRawSource(SourceConfig[json.RawMessage]{Paths: paths})
}

// NewSource is JSONLines with a configuration.
func NewSource[T any](c SourceConfig[T]) *Source[T] {
	return &Source[T]{config: c, decode: decoder[T]{value: decodeJSON[T], time: c.Time}}
}

// NewRawSource is RawJSONLines with a configuration.
func NewRawSource(c SourceConfig[json.RawMessage]) *Source[json.RawMessage] {
	return &Source[json.RawMessage]{config: c, decode: rawDecoder(c.Time, c.Unchecked)}
}

// cut is what a checkpoint keeps of a split: a byte range of a file as it was.
type cut struct {
	Path string `json:"path"`
	// Size is the file's when it was cut. What is appended later is not read.
	Size int64 `json:"size"`
	// The split has the lines that begin in [Start, End).
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	// Prefix is the checksum of the file's beginning.
	Prefix string `json:"prefix"`
}

// Splits implements stream.Source.
func (s *Source[T]) Splits(ctx context.Context) ([]stream.Split, error) {
	c, err := s.config.resolve()
	if err != nil {
		return nil, err
	}
	paths, err := expand(c.Paths)
	if err != nil {
		return nil, err
	}
	var splits []stream.Split
	var files []string
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		size, prefix, err := fingerprint(path, math.MaxInt64)
		if err != nil {
			return nil, err
		}
		for start := int64(0); start < size; {
			end := size
			if size-start > c.SplitSize {
				end = start + c.SplitSize
			}
			data, err := json.Marshal(cut{Path: path, Size: size, Start: start, End: end, Prefix: prefix})
			if err != nil {
				return nil, err
			}
			splits, files = append(splits, stream.Split{Data: data, Start: start}), append(files, path)
			start = end
		}
	}
	s.keep(files)
	return splits, nil
}

// Verify implements stream.Source. It refuses a file that is gone, whose
// beginning has changed, or that is too short for what is still to be read. What has been appended, and
// files that the paths match by now and did not when they were cut, are not read; the logger is told.
func (s *Source[T]) Verify(ctx context.Context, splits []stream.Split, next []int64) error {
	if len(splits) != len(next) {
		return fmt.Errorf("file: %d splits and %d positions; want one for each", len(splits), len(next))
	}
	type seen struct {
		size   int64
		prefix string
	}
	files := map[string]seen{}
	var names []string
	for i, split := range splits {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := parseCut(split)
		if err != nil {
			return err
		}
		f, ok := files[c.Path]
		if !ok {
			if f.size, f.prefix, err = fingerprint(c.Path, c.Size); err != nil {
				return fmt.Errorf("%w; the job can't go on without it: put it back, or start afresh", err)
			}
			files[c.Path] = f
			if f.size > c.Size {
				s.warn("a file has grown since the run began, which reads it as it was then", "file", c.Path, "was", c.Size, "is", f.size)
			}
		}
		names = append(names, c.Path)
		if f.prefix != c.Prefix {
			return fmt.Errorf("file: %s is not the file that was being read: its beginning has changed; put the old one back, or start afresh", c.Path)
		}
		need := next[i]
		if next[i] < c.End {
			need = c.Size // the last line that begins in the split may reach that far
		}
		if f.size < need {
			return fmt.Errorf("file: %s has shrunk to %d bytes and was %d when it was cut into splits; put the old one back, or start afresh",
				c.Path, f.size, c.Size)
		}
	}
	s.keep(names)
	if s.config.Logger != nil {
		now, _ := expand(s.config.Paths) // a missing file has been judged above
		for _, path := range now {
			if info, err := os.Stat(path); err == nil && info.Size() > 0 && !slices.Contains(names, path) {
				s.warn("a file has come since the run began, which does not read it", "file", path)
			}
		}
	}
	return nil
}

func (s *Source[T]) warn(message string, args ...any) {
	if s.config.Logger != nil {
		s.config.Logger.Warn("file: "+message, args...)
	}
}

// Open implements stream.Source.
func (s *Source[T]) Open(ctx context.Context, split stream.Split, position int64) (stream.Reader[T], error) {
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
	f, err := os.Open(c.Path)
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	begin := position
	if position == c.Start && position > 0 {
		// The range may begin inside a line, which is then the split before's.
		if begin, err = firstLine(f, c); err != nil {
			f.Close()
			return nil, fmt.Errorf("file: reading %s: %w", c.Path, err)
		}
	}
	return &reader[T]{
		name:   c.Path,
		lines:  newLines(&section{f: f, cut: c, pos: begin}, begin, config.MaxLine, s.decode.keeps),
		end:    c.End,
		number: func(offset int64) int64 { return lineNumber(f, offset) },
		decode: s.decode,
		close:  f.Close,
	}, nil
}

func parseCut(split stream.Split) (cut, error) {
	var c cut
	if err := json.Unmarshal(split.Data, &c); err != nil {
		return c, fmt.Errorf("file: the split's description is damaged: %w", err)
	}
	if c.Path == "" || c.Start < 0 || c.End < c.Start || c.Size < c.End {
		return c, fmt.Errorf("file: the split's description is damaged: bytes %d to %d of %d in %q", c.Start, c.End, c.Size, c.Path)
	}
	return c, nil
}

// expand returns the files that paths name, in their order, each once.
func expand(paths []string) ([]string, error) {
	if len(paths) == 0 {
		return nil, errors.New("file: the source has no paths; name at least one file")
	}
	var all []string
	var errs []error
	for _, p := range paths {
		found, err := match(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, f := range found {
			if !slices.Contains(all, f) {
				all = append(all, f)
			}
		}
	}
	return all, errors.Join(errs...)
}

func match(path string) ([]string, error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.Mode().IsRegular():
		return []string{filepath.Clean(path)}, nil
	case err == nil && info.IsDir():
		return nil, fmt.Errorf("file: %s is a folder; name the files in it, as in %s", path, filepath.Join(path, "*.jsonl"))
	case err == nil:
		return nil, fmt.Errorf("file: %s is not a regular file, so it can't be cut and read again; use standard input for pipes", path)
	case !strings.ContainsAny(path, `*?[`):
		return nil, fmt.Errorf("file: %w", err)
	}
	names, err := filepath.Glob(path)
	if err != nil {
		return nil, fmt.Errorf("file: the pattern %s: %w", path, err)
	}
	var found []string
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			found = append(found, filepath.Clean(name))
		}
	}
	if found == nil {
		return nil, fmt.Errorf("file: the pattern %s matches no file", path)
	}
	slices.Sort(found)
	return found, nil
}
