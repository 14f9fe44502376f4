package file

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/fsx"
)

// DefaultMaxOpen is how many files a writer holds open.
const DefaultMaxOpen = 32

// SinkConfig describes a sink of part files. Dir and Encode must be set.
type SinkConfig[T any] struct {
	// Dir is the folder. The sink makes it if it is not there.
	Dir string
	// Encode makes the line of a result.
	Encode Encode[T]
	// Job names the job in the names of pending files. Two jobs that use a folder one after the
	// other need different names, so that neither removes the other's files as its own
	// leftovers. The name may have any characters. Default: the empty name.
	Job string
	// MaxOpen is how many files the writer of one subtask holds open at most. It writes one for
	// each split that it has records of. Default 32.
	MaxOpen int
	// Consumed says that other programs take published parts away. A run then goes on although
	// some parts are missing; parts that are there must still have the size with which they
	// were written. Default: a run whose parts are missing does not go on.
	Consumed bool
	// Private keeps other users from the published parts and the folder, as dead letters need
	// it. Their modes are then 0600 and 0700, whatever the umask. The mode of a folder that is
	// there already does not change. Parts that are not published are private in any case.
	// Default: the umask decides.
	Private bool

	fs   fsx.FS // nil: the operating system's; others are for tests of crashes
	many int    // see committer
}

func (c SinkConfig[T]) resolve() (SinkConfig[T], error) {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("file: the sink has no folder; name one"))
	}
	if c.Encode == nil {
		errs = append(errs, errNoEncode)
	}
	if c.MaxOpen < 0 {
		errs = append(errs, fmt.Errorf("file: the bound of open files is %d; want 1 or more, or 0 for %d", c.MaxOpen, DefaultMaxOpen))
	}
	if c.MaxOpen == 0 {
		c.MaxOpen = DefaultMaxOpen
	}
	if c.fs == nil {
		c.fs = fsx.OS
	}
	if c.many == 0 {
		c.many = manyRecent
	}
	return c, errors.Join(errs...)
}

var errNoEncode = errors.New("file: the sink has no Encode; set one, such as file.JSONLine or file.RawLine")

// Sink writes results as lines into part files of a folder, exactly once. It is safe for concurrent
// use. One sink at a time may write into a folder.
type Sink[T any] struct {
	config SinkConfig[T]
}

// NewSink returns a sink. A mistake in the configuration is reported when the job starts.
func NewSink[T any](c SinkConfig[T]) *Sink[T] { return &Sink[T]{config: c} }

// Validate says what is wrong with the configuration.
func (s *Sink[T]) Validate() error {
	_, err := s.config.resolve()
	return err
}

// Open implements connector.Sink.
func (s *Sink[T]) Open(_ context.Context, sub async.Subtask) (connector.Writer[T], error) {
	c, err := s.config.resolve()
	if err != nil {
		return nil, err
	}
	if err := fsx.MkdirAll(c.fs, c.Dir, fsx.Access(c.Private)); err != nil {
		return nil, fmt.Errorf("file: making the folder %s: %w", c.Dir, err)
	}
	return &writer[T]{
		fs: c.fs, dir: c.Dir, maxOpen: c.MaxOpen, encode: c.Encode,
		prefix: fmt.Sprintf("%s%s-%d-%d-", pendingOf(c.Job), digest(sub.Run), sub.Attempt, sub.Index),
		parts:  map[int]*part{},
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
	return &committer{fs: c.fs, dir: c.Dir, abs: abs, pending: pendingOf(c.Job), lists: listsOf(c.Job), many: c.many, consumed: c.Consumed, access: fsx.Access(c.Private)}, nil
}
