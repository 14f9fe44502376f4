// Package cli is the frame of a command line: what a process has of its surroundings, commands and
// their help, flags, exit codes and signals. It must never know what a command does.
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

// Exit codes. A signal's code is 128 and its number, as shells have it.
const (
	OK     = 0
	Failed = 1
	Usage  = 2 // the command line, or a file that it names, is wrong
)

// World is what a command has of its surroundings; a test makes its own.
type World struct {
	Stdin          *os.File
	Stdout, Stderr io.Writer
	// Signals are those that ask the process to end.
	Signals <-chan os.Signal
	// Grace is how long a command has to end when it is told to do so at once; 0: what it has by
	// itself.
	Grace time.Duration
	// Size of the terminal behind Stderr, in characters; nil if it is none, or nobody asked.
	Size func() (width, height int)
}

// Process returns the surroundings of this process, whose signals it takes.
func Process() *World {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Whoever read what is written may be gone. Then writing fails, as it may for other reasons,
	// and does not end the process in the midst of something.
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

// Logger writes as --log-format and --log-level say: text or json, and debug, info, warn or error.
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
