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

// Logger returns l with a handler whose failures do no harm: a log record that the handler fails on
// is lost, and the first failure of each logger is reported on standard error. A logger that has
// such a handler is returned unchanged.
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

// handler guards the handler of a logger, including methods of logged values, which the handler
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
		h.once.Do(func() { fmt.Fprintf(stderr, "tensorferry: a log record was lost: %v\n", err) })
	}
}
