// Package guard calls what users give: functions, and methods of their values. A panic of it, the
// end of its goroutine (runtime.Goexit) and an error whose own methods panic become an error with
// place and stack, so that none of them ends the process or leaves somebody waiting. It must never
// know what is called, or what becomes of the failure.
//
// Call and Recover stay on the goroutine of their caller, for what is called often. They cannot
// stop a Goexit, which nothing can: whoever began the goroutine says with Exited what it was. Apart
// has a goroutine for each call.
package guard

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// ErrGoexit is the Value of a Panic that was none: the function ended its goroutine. A test that
// calls FailNow in it does.
var ErrGoexit = errors.New("it ended its goroutine (runtime.Goexit)")

// Panic is a panic of a user's function, caught and turned into an error.
type Panic struct {
	// Where names the function that panicked.
	Where string
	// Value is what it panicked with, or ErrGoexit. In place of a value that cannot be printed,
	// since its own methods panic, it is a text that says so.
	Value any
	// Stack is the goroutine's stack at the panic.
	Stack []byte
}

func (p *Panic) Error() string { return Brief(p) + "\n" + string(p.Stack) }

// Brief is the text of p without the stack, for who must not see that.
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

// Caught makes a Panic of what recover returned. It is called where that was, so that the stack is
// the panic's.
func Caught(where string, value any) *Panic {
	return &Panic{Where: where, Value: printable(value), Stack: debug.Stack()}
}

// Exited makes a Panic of a function that ended its goroutine, in a deferred function of that
// goroutine.
func Exited(where string) *Panic {
	return &Panic{Where: where, Value: ErrGoexit, Stack: debug.Stack()}
}

// Recover, deferred, turns a panic into *err.
func Recover(where string, err *error) {
	if v := recover(); v != nil {
		*err = Caught(where, v)
	}
}

// Call calls f. Its panic is an error, and so is an error of it that cannot be used.
func Call(where string, f func() error) error {
	return Error(where, call(where, f))
}

func call(where string, f func() error) (err error) {
	defer Recover(where, &err)
	return f()
}

// Apart is Call on a goroutine of its own, for which it waits: a Goexit is an error too.
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
