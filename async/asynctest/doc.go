// Package asynctest tests an [async.Function], with its timeout handler, retry predicate and
// fallback. A [Harness] drives the function as the task of a job does. The test pushes records,
// watermarks and barriers, moves time, and looks at what left, in order. The calls are completed by
// the test ([Manual]) or by the function. A test can also take the state of a checkpoint and
// restore it.
//
// Time is virtual, so a test of a long timeout takes no real time. A harness lives inside
// [testing/synctest.Test], and [New] fails the test elsewhere. All timers of the operator, of the
// function and of a sidecar from package sidecartest run on that clock, to the nanosecond. Do not
// use a harness for a function that uses a real network, or a real file that blocks: the clock
// stands still while it does.
//
// When a method returns, everything is at rest at the present moment: calls are made, answers are
// taken, results are emitted, and the function's goroutines wait for something. Time moves only in
// [Harness.Advance], [Harness.Feed], [Harness.Until] and [Harness.Finish], and while the test, or
// the opening or closing of the function, blocks. At each moment answers are taken before timers
// fire, so an answer that comes exactly at its deadline is always in time.
//
//	func TestSlowAnswerIsReplaced(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			fn := &lenient{}
//			h := asynctest.New(t, fn, async.Config{Timeout: 10 * time.Second})
//
//			h.Push("fast", "slow")
//			fn.Call("fast").Complete(4)
//			h.Advance(10 * time.Second) // "slow" gets no answer
//			h.Finish()
//
//			if got := h.Transcript(); got != "4 -1 end" {
//				t.Error(got)
//			}
//		})
//	}
//
// Here lenient is a type of the user's. It embeds [Manual], a function whose calls the test
// completes, and adds the handler that is tested. A function that answers by itself needs no
// Manual.
//
// A failure of the operator that the test never asks for (with [Harness.Err]) fails the test, and
// so does a Call, Cancel, handler or predicate that blocks. The package knows only package async.
// It knows nothing of jobs, sources, sinks and sidecars, or of how checkpoints are stored.
package asynctest
