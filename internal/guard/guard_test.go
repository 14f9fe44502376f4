package guard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tensorferry/tensorferry/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bad is an error with one method that misbehaves as the test says.
type bad struct {
	method string
	do     func()
}

func (b *bad) act(method string) {
	if b.method == method {
		b.do()
	}
}

func (b *bad) Error() string       { b.act("Error"); return "bad" }
func (b *bad) Is(error) bool       { b.act("Is"); return false }
func (b *bad) As(any) bool         { b.act("As"); return false }
func (b *bad) Unwrap() error       { b.act("Unwrap"); return nil }
func (b *bad) Timeout() bool       { b.act("Timeout"); return false }
func (b *bad) Temporary() bool     { b.act("Temporary"); return false }
func (b *bad) Verdict() struct{}   { b.act("Verdict"); return struct{}{} }
func (b *bad) GRPCStatus() *string { b.act("GRPCStatus"); return nil }

// wrapper wraps another error.
type wrapper struct{ error }

func (wrapper) Error() string   { return "wrapped" }
func (w wrapper) Unwrap() error { return w.error }

// itself wraps itself.
type itself struct{}

func (e *itself) Error() string { return "itself" }
func (e *itself) Unwrap() error { return e }

// picky has a common mistake in Is.
type picky struct{ code int }

func (p *picky) Error() string        { return "picky" }
func (p *picky) Is(target error) bool { return p.code == target.(*picky).code }

// mirror panics with itself when it is printed.
type mirror struct{}

func (m *mirror) Error() string  { panic(m) }
func (m *mirror) String() string { panic(m) }

// TestErrorsThatCannotBeUsed: errors whose methods panic become a *Panic with the method, the type
// and the stack.
func TestErrorsThatCannotBeUsed(t *testing.T) {
	for _, method := range []string{"Error", "Is", "As", "Unwrap", "Timeout", "Temporary", "Verdict", "GRPCStatus"} {
		for name, do := range map[string]func(){
			"panic": func() { panic("no") }, "Goexit": runtime.Goexit, "panic with nil": func() { panic(nil) }, "panic with itself": func() { panic(&mirror{}) },
		} {
			for _, err := range []error{&bad{method, do}, wrapper{&bad{method, do}}, errors.Join(io.EOF, &bad{method, do})} {
				p, ok := Error("f", err).(*Panic)
				if !ok || !strings.HasPrefix(p.Where, method+" of the error (") || !strings.HasSuffix(p.Where, " that f returned") || !strings.Contains(string(p.Stack), "guard.(*bad).act") {
					t.Errorf("%s, %s, %T: %v", method, name, err, p)
				}
				if exits := ok && p.Value == ErrGoexit; exits != (name == "Goexit") {
					t.Errorf("%s, %s: the value is %v", method, name, p.Value)
				}
			}
		}
	}
	var none *fs.PathError
	for want, err := range map[string]error{
		"a nil pointer where a nil interface is meant": none,
		"Is of the error (*guard.picky) that f":        &picky{},
		"it wraps itself":                              &itself{},
		"Error of the error (*guard.mirror)":           &mirror{},
	} {
		if got := Error("f", err); got == err || !strings.Contains(got.Error(), want) {
			t.Errorf("%v; want %q", got, want)
		}
	}
}

// TestErrorsThatCanBeUsed: errors whose methods work stay unchanged.
func TestErrorsThatCanBeUsed(t *testing.T) {
	many := make([]error, 3000)
	deep := io.EOF
	for i := range many {
		many[i] = fmt.Errorf("%d", i)
		if i < 500 {
			deep = fmt.Errorf("deeper: %w", deep)
		}
	}
	for _, err := range []error{nil, io.EOF, context.Canceled, context.DeadlineExceeded, &fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist},
		errors.Join(many...), deep, &net.OpError{Op: "dial", Err: io.EOF}, &bad{}, Caught("w", "v"), fmt.Errorf("%w and %w", io.EOF, io.EOF)} {
		if got := Error("f", err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _ = Error("f", nil); _ = Error("f", io.EOF) }); n != 0 {
		t.Errorf("an error of a known type costs %v allocations", n)
	}
}

// TestPanicsWithValuesThatPanic: such a value is never printed.
func TestPanicsWithValuesThatPanic(t *testing.T) {
	for _, call := range []func(string, func() error) error{Call, Apart} {
		for _, v := range []any{&mirror{}, &bad{"Error", runtime.Goexit}, struct{ fmt.Stringer }{&mirror{}}} {
			err := call("f", func() error { panic(v) })
			if want := "panic in f: a value of type "; !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%v; want %q", err, want)
			}
		}
		if err := call("f", func() error { panic(io.EOF) }); !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
		if err := call("f", func() error { return &mirror{} }); !strings.Contains(err.Error(), "Error of the error (*guard.mirror) that f returned") {
			t.Errorf("%v", err)
		}
	}
	if err := Apart("f", func() error { runtime.Goexit(); return nil }); !errors.Is(err, ErrGoexit) || !strings.HasPrefix(err.Error(), "f did not return: ") {
		t.Errorf("%v", err)
	}
}

// failing is a log handler.
type failing struct {
	slog.Handler
	do func()
}

func (f failing) Enabled(context.Context, slog.Level) bool  { return true }
func (f failing) Handle(context.Context, slog.Record) error { f.do(); return nil }
func (f failing) WithAttrs([]slog.Attr) slog.Handler        { f.do(); return f }
func (f failing) WithGroup(string) slog.Handler             { f.do(); return f }

// value is a user's logged value.
type value struct{}

func (value) MarshalText() ([]byte, error) { runtime.Goexit(); return nil, nil }

// TestLogger: a handler's failure does no harm, and is reported once.
func TestLogger(t *testing.T) {
	before := stderr
	defer func() { stderr = before }()
	for name, l := range map[string]*slog.Logger{
		"panic":  slog.New(failing{do: func() { panic("full") }}),
		"Goexit": slog.New(failing{do: runtime.Goexit}),
		"value":  slog.New(slog.NewTextHandler(io.Discard, nil)),
	} {
		var said bytes.Buffer
		stderr = &said
		l = Logger(l)
		if Logger(l) != l {
			t.Errorf("%s: a guarded logger is guarded again", name)
		}
		for range 2 {
			l.With("a", 1).WithGroup("g").Warn("w", "v", value{})
		}
		if n := strings.Count(said.String(), "tensorferry: a log record was lost: "); n != 1 || !strings.Contains(said.String(), "log handler") {
			t.Errorf("%s: reported %d times: %s", name, n, said.String())
		}
	}
	if Logger(nil) != nil {
		t.Error("a nil logger became a logger")
	}
}

// silent is a tracer that records nothing.
type silent struct{}

func (silent) Start(*trace.Context, string, trace.Kind, time.Time, ...*trace.Context) trace.Span {
	return nil
}

// TestTracerThatRecordsNothing costs nothing.
func TestTracerThatRecordsNothing(t *testing.T) {
	r := Tracer(silent{}, func(err error) { t.Error(err) })
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() {
		if r.Start(nil, "a", trace.Internal, now) != nil {
			t.Error("there is a span")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if Tracer(nil, nil) != nil {
		t.Error("a nil tracer became a tracer")
	}
}
