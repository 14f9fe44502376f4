// Package asynctest drives an asynchronous function as a job's task does, so that its users can
// test their own [async.Function], timeout handler, retry predicate and fallback. A test pushes
// records, watermarks and barriers, moves time, completes calls by hand or leaves that to the
// function, takes the state of a checkpoint, restores it, and looks at what left, in order.
//
// Time is virtual: a harness lives inside [testing/synctest.Test], and [New] fails elsewhere. All
// timers of the operator, of the function and of a sidecar from package sidecartest run on that
// clock, to the nanosecond, and nothing sleeps for real. The function must not use a real network
// or a real file that blocks, since the clock stands still while it does.
//
// Each method leaves everything at rest at the present moment: calls made, answers taken, results
// emitted, the function's goroutines waiting for something. Time itself moves only in
// [Harness.Advance], [Harness.Feed], [Harness.Until] and [Harness.Finish], and where the test or
// the opening and closing of the function blocks. At each moment answers are taken before
// timers, so that an answer at its very deadline is always in time.
//
//	func TestSlowAnswerIsReplaced(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			fn := &lenient{}
//			h := asynctest.New(t, fn, async.Config{Timeout: 10 * time.Second})
//
//			h.Push("fast", "slow")
//			fn.Call("fast").Complete(4)
//			h.Advance(10 * time.Second) // nobody answers "slow"
//			h.Finish()
//
//			if got := h.Transcript(); got != "4 -1 end" {
//				t.Error(got)
//			}
//		})
//	}
//
// Here lenient is the user's own type: it embeds [Manual], a function whose calls the test
// completes, and adds the handler that is tested. A function that answers by itself needs no
// Manual.
//
// A failure of the operator that the test never asks for (with [Harness.Err]) fails the test, and
// so does a Call, Cancel, handler or predicate that blocks. Package asynctest knows only package
// async: nothing of jobs, sources, sinks, sidecars or how checkpoints are stored.
package asynctest
