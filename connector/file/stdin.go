package file

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"sync/atomic"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

// StdinConfig describes standard input as a source of JSON Lines. Its zero value
// is the documented defaults.
type StdinConfig[T any] struct {
	// MaxLine bounds a line, in bytes; a longer one fails. Default 16 MiB.
	MaxLine int
	// Time returns a record's event time. Default: records have no time.
	Time func(T) (async.EventTime, error)
	// Unchecked is as in SourceConfig, and for NewRawStdin alone.
	Unchecked bool
	// Input is read in place of os.Stdin: a pipe, a terminal, a file.
	Input *os.File
}

// StdinSource reads JSON Lines from standard input, as one split. What is read
// from there is gone, so the job can neither restart nor be resumed; it says so.
type StdinSource[T any] struct {
	config StdinConfig[T]
	decode decoder[T]
	opened atomic.Bool
}

// Stdin reads standard input, whose lines are JSON values of type T.
func Stdin[T any]() *StdinSource[T] { return NewStdin(StdinConfig[T]{}) }

// RawStdin reads standard input, whose lines are JSON values, and keeps each as
// it is, byte for byte, without white space around it.
func RawStdin() *StdinSource[json.RawMessage] { return NewRawStdin(StdinConfig[json.RawMessage]{}) }

// NewStdin is Stdin with a configuration.
func NewStdin[T any](c StdinConfig[T]) *StdinSource[T] {
	return &StdinSource[T]{config: c, decode: decoder[T]{value: decodeJSON[T], time: c.Time}}
}

// NewRawStdin is RawStdin with a configuration.
func NewRawStdin(c StdinConfig[json.RawMessage]) *StdinSource[json.RawMessage] {
	return &StdinSource[json.RawMessage]{config: c, decode: rawDecoder(c.Time, c.Unchecked)}
}

// onceError says that an input can't be read again. No restart helps.
type onceError string

func (e onceError) Error() string { return "file: standard input " + string(e) }

func (onceError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// Splits implements connector.Source.
func (s *StdinSource[T]) Splits(context.Context) ([]connector.Split, error) {
	c := SourceConfig[T]{MaxLine: s.config.MaxLine}
	if _, err := c.resolve(); err != nil {
		return nil, err
	}
	return []connector.Split{{Data: []byte("stdin")}}, nil
}

// Verify implements connector.Source. It always refuses.
func (s *StdinSource[T]) Verify(context.Context, []connector.Split, []int64) error {
	return onceError("can't be resumed, since what was read from it is gone; start afresh, or read a file")
}

// Open implements connector.Source. It works once.
func (s *StdinSource[T]) Open(_ context.Context, split connector.Split, position int64) (connector.Reader[T], error) {
	c, err := SourceConfig[T]{MaxLine: s.config.MaxLine}.resolve()
	if err != nil {
		return nil, err
	}
	if position != 0 || s.opened.Swap(true) {
		return nil, onceError("can't be read again after a failure; read a file to be able to restart")
	}
	in, err := newWaiter(s.input())
	if err != nil {
		return nil, fmt.Errorf("file: standard input: %w", err)
	}
	return &reader[T]{
		name:   "standard input",
		lines:  newLines(in, 0, c.MaxLine, s.decode.keeps),
		end:    math.MaxInt64,
		decode: s.decode,
		sniff:  true,
		close:  in.close,
	}, nil
}

func (s *StdinSource[T]) input() *os.File {
	if s.config.Input != nil {
		return s.config.Input
	}
	return os.Stdin
}
