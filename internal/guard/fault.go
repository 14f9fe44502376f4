package guard

import (
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
)

const (
	// deepest is how far errors may wrap one another. It detects an error that wraps itself.
	deepest = 1000
	// mostTried bounds how many wrapped errors are tried.
	mostTried = 10000
)

// Error returns err if its methods work. If a method of err, or of an error that it wraps, panics
// or ends its goroutine, as methods of a nil pointer do, Error returns a *Panic with the place and
// the stack. It calls all the methods once that errors, fmt, grpc and package async call. where
// names the function that returned err.
func Error(where string, err error) error {
	if err == nil || sound(err) {
		return err
	}
	at := ""
	failed := trial(func() { probe(err, &at, 0, new(int)) })
	if failed == nil {
		return err
	}
	failed.Where = fmt.Sprintf("%s of the error (%s) that %s returned", at, typeName(err), where)
	return failed
}

// sound reports whether err is of a type whose methods are known to work, as most errors are.
func sound(err error) bool {
	switch reflect.TypeOf(err) {
	case plainType:
		return !reflect.ValueOf(err).IsNil()
	case wrappedType:
		if reflect.ValueOf(err).IsNil() {
			return false
		}
		inner := errors.Unwrap(err)
		return inner == nil || sound(inner)
	}
	p, ok := err.(*Panic)
	return ok && p != nil
}

var (
	plainType   = reflect.TypeOf(errors.New(""))
	wrappedType = reflect.TypeOf(fmt.Errorf("%w", ErrGoexit))
)

// asked is an error type that no Is or As method knows.
type asked struct{}

func (*asked) Error() string { return "" }

// others finds methods that return types of packages that this one does not import: async and grpc.
// Each name is a constant, because otherwise the linker would keep every method of a program.
var others = []func(reflect.Value) (string, reflect.Value){
	func(v reflect.Value) (string, reflect.Value) { return "Verdict", v.MethodByName("Verdict") },
	func(v reflect.Value) (string, reflect.Value) { return "GRPCStatus", v.MethodByName("GRPCStatus") },
}

// probe calls the methods of err and of what it wraps, and sets at to the name of each before the
// call.
func probe(err error, at *string, depth int, tried *int) {
	if depth == deepest {
		panic("it wraps itself")
	}
	if *tried++; *tried > mostTried {
		return
	}
	*at = "Error"
	_ = err.Error()
	if e, ok := err.(interface{ Is(error) bool }); ok {
		*at = "Is"
		e.Is((*asked)(nil))
	}
	if e, ok := err.(interface{ As(any) bool }); ok {
		*at = "As"
		e.As(new(*asked))
	}
	if e, ok := err.(interface{ Timeout() bool }); ok {
		*at = "Timeout"
		e.Timeout()
	}
	if e, ok := err.(interface{ Temporary() bool }); ok {
		*at = "Temporary"
		e.Temporary()
	}
	for _, find := range others {
		name, m := find(reflect.ValueOf(err))
		if m.IsValid() && m.Type().NumIn() == 0 {
			*at = name
			m.Call(nil)
		}
	}
	*at = "Unwrap"
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			probe(inner, at, depth+1, tried)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if inner != nil {
				probe(inner, at, depth+1, tried)
			}
		}
	}
}

// printable returns value if it can be printed and, for an error, used. Otherwise it returns a text
// instead.
func printable(value any) any {
	switch v := value.(type) {
	case string, bool, int:
		return value
	case error:
		if sound(v) || trial(func() { probe(v, new(string), 0, new(int)) }) == nil {
			return value
		}
	default:
		if trial(func() { _ = fmt.Sprint(v) }) == nil {
			return value
		}
	}
	return "a value of type " + typeName(value) + ", whose own methods panic"
}

// trial runs f on a goroutine of its own and returns its panic or Goexit; nil: it returned. The
// panic's value becomes a text, since its methods may not work.
func trial(f func()) (failed *Panic) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		returned := false
		defer func() {
			v := recover()
			if returned {
				return
			}
			failed = &Panic{Value: ErrGoexit, Stack: debug.Stack()}
			switch v := v.(type) {
			case nil:
			case string:
				failed.Value = v
			case interface{ RuntimeError() }:
				failed.Value = runtimeText(v)
			default:
				failed.Value = "a value of type " + typeName(v)
			}
		}()
		f()
		returned = true
	}()
	<-done
	return failed
}

// runtimeText returns the text of a runtime error. It checks the type, since users may make errors
// that look like one.
func runtimeText(v any) (text string) {
	if t := reflect.TypeOf(v); t.PkgPath() == "runtime" || t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "runtime" {
		return fmt.Sprint(v)
	}
	return "a value of type " + typeName(v)
}

// typeName returns the name of a value's type, and says so if the value is a nil pointer.
func typeName(value any) string {
	name := fmt.Sprintf("%T", value)
	if v := reflect.ValueOf(value); v.Kind() == reflect.Pointer && v.IsNil() {
		name += ", a nil pointer where a nil interface is meant"
	}
	return name
}
