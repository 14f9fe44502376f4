package guard

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
)

// stderr is where a failing log handler is reported.
var stderr io.Writer = os.Stderr

// Logger returns l with a handler whose failures are nobody's: a record that it cannot take is
// lost, and the first one of each logger is reported to standard error. A logger that has one is
// returned as it is.
func Logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return nil
	}
	switch h := l.Handler().(type) {
	case handler:
		return l
	default:
		if h == slog.DiscardHandler {
			return l
		}
		return slog.New(handler{h, new(sync.Once)})
	}
}

// handler is the handler of a logger. Values that are logged have methods of users too, which it
// calls.
type handler struct {
	to   slog.Handler
	once *sync.Once // of the report
}

func (h handler) Enabled(ctx context.Context, level slog.Level) (enabled bool) {
	var err error
	defer func() { h.report(err) }()
	defer Recover("Enabled of the log handler", &err)
	return h.to.Enabled(ctx, level)
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	err := Apart("the log handler", func() error { return h.to.Handle(ctx, r) })
	if _, ok := err.(*Panic); ok {
		h.report(err)
	}
	return err
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with("WithAttrs", func() slog.Handler { return h.to.WithAttrs(attrs) })
}

func (h handler) WithGroup(name string) slog.Handler {
	return h.with("WithGroup", func() slog.Handler { return h.to.WithGroup(name) })
}

func (h handler) with(what string, f func() slog.Handler) slog.Handler {
	to := h.to
	err := Apart(what+" of the log handler", func() error {
		to = f()
		return nil
	})
	h.report(err)
	return handler{to, h.once}
}

func (h handler) report(err error) {
	if err != nil {
		h.once.Do(func() { fmt.Fprintf(stderr, "tensorferry: what was to be logged is lost: %v\n", err) })
	}
}
