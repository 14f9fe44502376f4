package callbacks

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/tensorferry/tensorferry/async"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mistake is what a user's function does wrong. The error is for functions that return one.
type mistake struct {
	name string
	make func() error
}

var mistakes = []mistake{
	{"panic", func() error { panic("a mistake") }},
	{"panic with nil", func() error { panic(nil) }},
	{"panic with an error that panics", func() error { panic(&nothing{}) }},
	{"Goexit", func() error { runtime.Goexit(); return nil }},
	{"an error that is a nil pointer", func() error { var e *nothing; return e }},
}

// nothing is an error whose own methods panic, with itself, or since it is a nil pointer.
type nothing struct{ name string }

func (n *nothing) Error() string {
	if n.name == "" {
		panic(n)
	}
	return n.name
}

// trap makes a mistake at one place, until it is disarmed.
type trap struct {
	at       string
	mistake  mistake
	disarmed atomic.Bool
	sprung   atomic.Int64
}

// spring makes the mistake if this is the place.
func (t *trap) spring(at string) error {
	if t.at == "" || t.at != at || t.disarmed.Load() {
		return nil
	}
	t.sprung.Add(1)
	return t.mistake.make()
}

// row is one callback: what is run, and what must become of a mistake in it.
type row struct {
	// run makes the mistake happen and returns how that ended.
	run func(t *testing.T, tr *trap) error
	// where is in PanicError.Where.
	where string
	// exits is where for a Goexit, if that is known less well.
	exits string
	// returns: the function returns an error, which may be one that cannot be used.
	returns bool
	// check is what must have become of it. Nil: broken.
	check func(t *testing.T, r row, tr *trap, err error)
	// else: why there is nothing to run.
	why string
}

// broken: whoever waits gets a failure with the place and the stack.
func broken(t *testing.T, r row, tr *trap, err error) {
	t.Helper()
	p, ok := errors.AsType[*async.PanicError](err)
	if !ok {
		t.Fatalf("it ended with %v; want a panic", err)
	}
	where := r.where
	if r.exits != "" && tr.mistake.name == "Goexit" {
		where = r.exits
	}
	if !strings.Contains(p.Where, where) {
		t.Errorf("the place is %q; want %q", p.Where, where)
	}
	at := "callbacks.(*trap).spring"
	if r.returns && strings.Contains(tr.mistake.name, "nil pointer") {
		at = "callbacks.(*nothing).Error"
	}
	if !strings.Contains(string(p.Stack), at) {
		t.Errorf("the stack does not show %s:\n%s", at, p.Stack)
	}
	if exits := tr.mistake.name == "Goexit"; exits != errors.Is(err, async.ErrGoexit) {
		t.Errorf("is it a Goexit? %v", err)
	}
	if text := err.Error(); !strings.Contains(text, where) {
		t.Errorf("its text does not name the place: %s", text)
	}
}

// told is broken where a server tells a text.
func told(t *testing.T, r row, _ *trap, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), r.where) {
		t.Errorf("it ended with %v; want %q", err, r.where)
	}
}

// harmless: nothing waits for the function, and what it belongs to goes on.
func harmless(t *testing.T, _ row, _ *trap, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// virtual runs f in virtual time.
func virtual(f func(t *testing.T, tr *trap) error) func(*testing.T, *trap) error {
	return func(t *testing.T, tr *trap) (err error) {
		synctest.Test(t, func(t *testing.T) { err = f(t, tr) })
		return err
	}
}

// logger is one whose handler is a trap. Nothing is written.
func (t *trap) logger() *slog.Logger {
	return slog.New(logHandler{t, slog.NewTextHandler(io.Discard, nil)})
}

type logHandler struct {
	*trap
	slog.Handler
}

func (h logHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	if err := h.spring("log"); err != nil {
		return err
	}
	return h.Handler.Handle(ctx, r)
}
func (h logHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h logHandler) WithGroup(string) slog.Handler      { return h }
