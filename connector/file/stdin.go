package file

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

// StdinConfig describes standard input as a source. Decode must be set.
type StdinConfig[T any] struct {
	// Decode makes a record's value of a line.
	Decode Decode[T]
	// MaxLine is the largest size of a line, in bytes. A longer line fails. Default 16 MiB.
	MaxLine int
	// Time returns a record's event time, or async.NoTime. A time that is out of range counts
	// as none. Default: records have no time.
	Time func(T) (async.EventTime, error)
	// Input is read in place of os.Stdin. It is a pipe, a terminal or a file.
	Input *os.File
}

func (c StdinConfig[T]) resolve() (StdinConfig[T], error) {
	var errs []error
	if c.Decode == nil {
		errs = append(errs, errNoDecode)
	}
	var err error
	c.MaxLine, err = maxLine(c.MaxLine)
	if c.Input == nil {
		c.Input = os.Stdin
	}
	return c, errors.Join(append(errs, err)...)
}

// Stdin reads lines from standard input, as one split. Standard input cannot be read again, so the
// job can neither restart nor be resumed: both fail with an error that says so.
type Stdin[T any] struct {
	config StdinConfig[T]
	opened atomic.Bool
}

// NewStdin returns a source. A mistake in the configuration is reported when the job starts.
func NewStdin[T any](c StdinConfig[T]) *Stdin[T] { return &Stdin[T]{config: c} }

// Validate says what is wrong with the configuration.
func (s *Stdin[T]) Validate() error {
	_, err := s.config.resolve()
	return err
}

// onceError says that an input cannot be read again. A restart does not help.
type onceError string

func (e onceError) Error() string { return "file: standard input " + string(e) }

func (onceError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// Splits implements connector.Source.
func (s *Stdin[T]) Splits(context.Context) ([]connector.Split, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return []connector.Split{{Data: []byte("stdin")}}, nil
}

// Verify implements connector.Source. It always refuses.
func (s *Stdin[T]) Verify(context.Context, []connector.Split, []int64) error {
	return onceError("cannot be read again, so the job cannot be resumed; start afresh, or read a file")
}

// Open implements connector.Source. It works once.
func (s *Stdin[T]) Open(_ context.Context, split connector.Split, position int64) (connector.Reader[T], error) {
	c, err := s.config.resolve()
	if err != nil {
		return nil, err
	}
	if position != 0 || s.opened.Swap(true) {
		return nil, onceError("cannot be read again after a failure; read a file if the job must be able to restart")
	}
	in, err := newWaiter(c.Input)
	if err != nil {
		return nil, fmt.Errorf("file: standard input: %w", err)
	}
	return &reader[T]{
		name:   "standard input",
		lines:  newLines(in, 0, c.MaxLine),
		end:    math.MaxInt64,
		decode: decoder[T]{c.Decode, c.Time},
		sniff:  true,
		close:  in.close,
	}, nil
}
