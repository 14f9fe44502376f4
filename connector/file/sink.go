package file

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/fsx"
)

// DefaultMaxOpen is how many files a writer holds open.
const DefaultMaxOpen = 32

// SinkConfig describes a sink of part files.
type SinkConfig struct {
	// Dir is the folder; it is made if need be.
	Dir string
	// Job names the job in the names of pending files, so that two jobs that use
	// a folder one after another never take each other's for leftovers of their
	// own. It may hold any characters. Default: the empty name.
	Job string
	// MaxOpen bounds the files that the writer of one subtask holds open, one for
	// each split that it has records of. Default 32.
	MaxOpen int
	// Consumed says that others take published parts away, so that a run goes on although some are
	// missing. Parts that are there must have the size with which they were written all the same.
	// Default: a run whose parts are missing does not go on.
	Consumed bool
	// Private keeps others from the published parts and the folder, as befits dead letters: 0600
	// and 0700, whatever the umask. A folder that is there stays as it is. Parts that are not
	// published are private in any case. Default: the umask says who may read them.
	Private bool
	// FS is the file system. Default: the operating system's. Others are for
	// tests of crashes.
	FS fsx.FS

	many int // see committer
}

func (c SinkConfig) resolve() (SinkConfig, error) {
	if c.Dir == "" {
		return c, errors.New("file: the sink has no folder; name one")
	}
	if c.MaxOpen < 0 {
		return c, fmt.Errorf("file: the bound of open files is %d; want 1 or more, or 0 for %d", c.MaxOpen, DefaultMaxOpen)
	}
	if c.MaxOpen == 0 {
		c.MaxOpen = DefaultMaxOpen
	}
	if c.FS == nil {
		c.FS = fsx.OS
	}
	if c.many == 0 {
		c.many = manyRecent
	}
	return c, nil
}

// Sink writes records as JSON Lines into part files of a folder, exactly once.
// It is safe for concurrent use. One sink at a time may write into a folder.
type Sink[T any] struct {
	config SinkConfig
	encode func(*bufio.Writer) encoder[T]
}

// encoder appends a record and a line feed to a buffer.
type encoder[T any] func(*T) error

// JSONLinesSink writes each value as a line of JSON, with the defaults of SinkConfig.
func JSONLinesSink[T any](dir string) *Sink[T] { return NewSink[T](SinkConfig{Dir: dir}) }

// RawSink writes JSON values as they are, one a line. White space in a value that
// spreads over several lines is left out; the values are not otherwise checked.
func RawSink(dir string) *Sink[json.RawMessage] { return NewRawSink(SinkConfig{Dir: dir}) }

// NewSink is JSONLinesSink with a configuration.
func NewSink[T any](c SinkConfig) *Sink[T] {
	return &Sink[T]{config: c, encode: encodeJSON[T]}
}

// NewRawSink is RawSink with a configuration.
func NewRawSink(c SinkConfig) *Sink[json.RawMessage] {
	return &Sink[json.RawMessage]{config: c, encode: encodeRaw}
}

func encodeJSON[T any](b *bufio.Writer) encoder[T] {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	return func(v *T) error { return e.Encode(v) }
}

func encodeRaw(b *bufio.Writer) encoder[json.RawMessage] {
	return func(v *json.RawMessage) error {
		line := []byte(*v)
		if len(line) == 0 {
			return errors.New("the record is empty; a line must hold a JSON value")
		}
		if bytes.ContainsAny(line, "\r\n") {
			var one bytes.Buffer
			if err := json.Compact(&one, line); err != nil {
				return err
			}
			line = one.Bytes()
		}
		_, _ = b.Write(line) // the buffer keeps an error for the next call
		return b.WriteByte('\n')
	}
}

// recordError says which record can't be written. It is the record's own fault,
// so the job ends without a restart.
type recordError struct {
	split    int
	position int64
	err      error
}

func (e *recordError) Error() string {
	return fmt.Sprintf("file: the record of split %d, position %d can't be written as a line of JSON: %v", e.split, e.position, e.err)
}

func (e *recordError) Unwrap() error { return e.err }

// Verdict makes a recordError an async.Failure.
func (e *recordError) Verdict() async.Verdict { return async.Verdict{Class: async.BadRecord} }

// Open implements connector.Sink.
func (s *Sink[T]) Open(_ context.Context, sub async.Subtask) (connector.Writer[T], error) {
	c, err := s.config.resolve()
	if err != nil {
		return nil, err
	}
	if err := fsx.MkdirAll(c.FS, c.Dir, fsx.Access(c.Private)); err != nil {
		return nil, fmt.Errorf("file: making the folder %s: %w", c.Dir, err)
	}
	return &writer[T]{
		fs: c.FS, dir: c.Dir, maxOpen: c.MaxOpen, encode: s.encode,
		prefix: fmt.Sprintf("%s%s-%d-%d-", pendingOf(c.Job), digest(sub.Run), sub.Attempt, sub.Index),
		parts:  map[int]*part[T]{},
	}, nil
}

// Committer implements connector.Sink.
func (s *Sink[T]) Committer(context.Context) (connector.Committer, error) {
	c, err := s.config.resolve()
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	return &committer{fs: c.FS, dir: c.Dir, abs: abs, pending: pendingOf(c.Job), lists: listsOf(c.Job), many: c.many, consumed: c.Consumed, access: fsx.Access(c.Private)}, nil
}
