// Package cli is the framework of a command line: the surroundings of a process, commands and their
// help, flags, exit codes and signals. It must never know what a command does.
package cli

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Exit codes. As in shells, the code of a signal is 128 plus the signal's number.
const (
	OK     = 0
	Failed = 1
	Usage  = 2 // the command line, or a file that it names, is wrong
)

// World is what a command gets from the process around it. Tests make their own.
type World struct {
	Stdin          *os.File
	Stdout, Stderr io.Writer
	// Signals receives the signals that ask the process to end.
	Signals <-chan os.Signal
	// Grace is the time that a command has to end when it must end at once. 0: the command's
	// default.
	Grace time.Duration
	// Size returns the size of the terminal behind Stderr, in characters. It is nil without a
	// terminal.
	Size func() (width, height int)
}

// Process returns the world of this process, and takes over the process's signals.
func Process() *World {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it
		signal.Notify(signals, syscall.SIGHUP)
	}
	// If the reader of a pipe is gone, a write must fail like any other write, and must not end
	// the process in the midst of something.
	signal.Ignore(syscall.SIGPIPE)
	return &World{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Signals: signals}
}

// SignalCode is the exit code of a process that a signal ended.
func SignalCode(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return Failed
}

// UnlessSignalled calls f with a context that a signal ends. It returns the signal, if one came,
// and what f returned.
func (w *World) UnlessSignalled(ctx context.Context, f func(context.Context) error) (os.Signal, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		return nil, err
	case s := <-w.Signals:
		cancel()
		return s, <-done
	}
}

// Logger returns a logger for the values of --log-format (text or json) and --log-level (debug,
// info, warn or error).
func Logger(out io.Writer, format, level string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(out, opts))
	}
	return slog.New(slog.NewTextHandler(out, opts))
}
