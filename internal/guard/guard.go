// Package guard calls functions that users supply, and methods of their values. If one panics, ends
// its goroutine (runtime.Goexit), or returns an error whose own methods panic, the result is an
// error with place and stack. So the process does not end, and no goroutine waits for ever. The
// package must never know what is called, or what happens after the failure.
//
// Call and Recover stay on the caller's goroutine, for functions that are called often. Nothing can
// stop a Goexit there: the code that started the goroutine reports it with Exited. Apart starts a
// goroutine for each call.
package guard

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// ErrGoexit is the Value of a Panic if the function did not panic but ended its goroutine, as a
// test does that calls FailNow.
var ErrGoexit = errors.New("it ended its goroutine (runtime.Goexit)")

// Panic is a panic of a user's function, caught and turned into an error.
type Panic struct {
	// Where names the function that panicked.
	Where string
	// Value is what the function panicked with, or ErrGoexit. If the value cannot be printed,
	// because its own methods panic, Value is a text that says so.
	Value any
	// Stack is the goroutine's stack at the panic.
	Stack []byte
}

func (p *Panic) Error() string { return Brief(p) + "\n" + string(p.Stack) }

// Brief returns the text of p without the stack, for readers that must not see the stack.
func Brief(p *Panic) string {
	if p.Value == ErrGoexit {
		return fmt.Sprintf("%s did not return: %v", p.Where, ErrGoexit)
	}
	return fmt.Sprintf("panic in %s: %v", p.Where, p.Value)
}

// Unwrap returns the panic's value if it was an error.
func (p *Panic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// Caught makes a Panic from the result of recover. Call it in the function that recovers, so that
// the stack is the panic's.
func Caught(where string, value any) *Panic {
	return &Panic{Where: where, Value: printable(value), Stack: debug.Stack()}
}

// Exited makes a Panic for a function that ended its goroutine. Call it in a deferred function of
// that goroutine.
func Exited(where string) *Panic {
	return &Panic{Where: where, Value: ErrGoexit, Stack: debug.Stack()}
}

// Recover, deferred, turns a panic into *err.
func Recover(where string, err *error) {
	if v := recover(); v != nil {
		*err = Caught(where, v)
	}
}

// Call calls f. A panic of f becomes an error, and so does an error of f whose methods panic.
func Call(where string, f func() error) error {
	return Error(where, call(where, f))
}

func call(where string, f func() error) (err error) {
	defer Recover(where, &err)
	return f()
}

// Apart is Call on a goroutine of its own, for which it waits. So a Goexit becomes an error too.
func Apart(where string, f func() error) (err error) {
	return Error(where, apart(where, f))
}

func apart(where string, f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		returned := false
		defer func() {
			if returned {
				return
			}
			if v := recover(); v != nil {
				err = Caught(where, v)
			} else {
				err = Exited(where)
			}
		}()
		err = f()
		returned = true
	}()
	<-done
	return err
}
