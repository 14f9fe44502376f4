//go:build !race

package stream

// The race detector's own runtime fails now and then at goroutines that end in the midst of a function, so that these tests are run without it.

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// leaver is a source that looks for changes of its splits in a goroutine that it ends.
type leaver struct{ *slowSource }

func (leaver) Changed(ctx context.Context) error { return exits(ctx) }

func exits(context.Context) error {
	runtime.Goexit()
	return nil
}

// TestFunctionsThatEndTheirGoroutine: a function of the user's that calls runtime.Goexit fails the job instead of hanging it.
func TestFunctionsThatEndTheirGoroutine(t *testing.T) {
	for where, build := range map[string]func(*Job){
		"source (subtask 0 of 1)": func(j *Job) {
			Collect(Map(From(j, FromSlice(numbers(3))), func(v int) (int, error) {
				runtime.Goexit()
				return v, nil
			}))
		},
		"source: cannot read split 0 from position 0": func(j *Job) {
			Collect(From(j, FromSeq(func(func(int, error) bool) { runtime.Goexit() }, true)))
		},
		`job "exit" failed: a function`: func(j *Job) {
			Collect(From(j, &slowSource{Source: FromSlice(numbers(3)), splits: exits}))
		},
		"source: a function": func(j *Job) {
			Collect(From[int](j, leaver{&slowSource{Source: paced{10, time.Hour}}}))
		},
		"checkpoint 1": func(j *Job) {
			d := newDisk()
			d.point = func(what string) {
				if strings.HasPrefix(what, "before commit") {
					runtime.Goexit()
				}
			}
			To(From(j, FromSlice(numbers(3))), diskSink{d})
		},
	} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				j := New("exit", Config{Parallelism: 1})
				build(j)
				if err := j.Run(ctx); !errors.Is(err, errNotReturned) || !strings.Contains(err.Error(), where) {
					t.Errorf("the job ended with %v; want %q", err, where)
				}
			})
		})
	}
}
