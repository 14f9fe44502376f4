// Package async calls a function for each record of a stream without waiting for the call before.
// Results leave in the order of their records, by key, or as they come. How many records and bytes
// wait at once, how long a call may take, what is retried and what becomes of a failure is Config.
//
// It costs about 0.2 µs and no allocation for each record, beside the function's own time
// (BenchmarkOperator). Where a call takes less than some microseconds, a plain loop is faster.
//
// # A loop over results
//
// Map runs a function over an iterator. Func makes a Function of plain Go code that blocks:
//
//	look := func(ctx context.Context, id string) (User, error) { return store.Get(ctx, id) }
//	cfg := async.Config{Capacity: 500, Timeout: time.Second}
//	for user, err := range async.Map(ctx, async.Values(ids), async.Func(look, 64), cfg) {
//		if err != nil {
//			return err // the first failure ends the loop
//		}
//		fmt.Println(user.Name)
//	}
//
// # Writing a function
//
// A Function has one method, Open. It makes a Caller for each subtask, and gets the Completer to
// which that caller reports. The caller's Call gets a slice of calls and starts them; it must not
// block, and it must not use the slice any more when it has returned. When an outcome is there,
// from any goroutine, the caller passes a Completion with the call's ID to Completer.Complete. The
// first completion of a call counts, and later ones are ignored. Close ends what is in progress and
// leaves nothing behind.
//
// An error says what it means through its Verdict: whether the record, the other side or the way
// there is at fault, and whether another attempt may help. If no call can be made at all, as
// without a connection, the caller says Suspend and later Resume: the records wait, and their time
// stands still. Optional interfaces of a Function are TimeoutHandler, RetryPredicate,
// FallbackMaker, Sizer and CallLimiter; a function that wraps another one implements Unwrapper, so
// that they are found. Package asynctest tests a function in virtual time.
//
// # A record that fails
//
// The operator asks these questions, in order. The first one that fits decides.
//
//  1. Verdict.Hold, or a suspended caller: the record waits and is called again. Its time stands
//     still. After Config.Hold it fails, of class Overload or Transport. With Verdict.Unmade the
//     record is called again when its turn comes, without such a bound.
//  2. Is another attempt worth it, and allowed? RetryPredicate says whether it is worth it. If
//     the function has none, Verdict.Retry does. An error without a Verdict is of class Backend and
//     is not retried.
//     Retry.Max, Retry.Budget and Config.Timeout say whether it is allowed. Classes BadRecord and
//     Permanent are never retried.
//  3. Is its time over? TimeoutHandler may give results in its place.
//  4. OnError has an Action for each Class: Fail, Drop, Fallback or DeadLetter. The default is
//     Fail.
//
// Fail ends the operator with a *RecordError. A job then restarts as its strategy says, unless the
// class is BadRecord or Permanent: a restart would only meet the same failure.
//
// # Writing a host
//
// An Operator is a step function: it has no goroutine and reads no input. Its host does that, with
// this loop, in one goroutine for each operator. The example of NewOperator is a whole one.
//
//	Admit records while there is Room
//	Step: timers fire, results leave through the Emitter, calls are made
//	if Status.More, begin again at once
//	wait until wake was called, Status.Next has come, or there is Room and input
//
// The host calls all methods from one goroutine: DeadLetters and Restore, if they are needed,
// before Open, and then this loop. It calls Step soon after wake, and at Status.Next. It passes
// watermarks and barriers in their place among the records; a watermark for which there is no room
// waits, and so does everything behind it. When Status.Barrier is set, it stores Status.Entries in
// the checkpoint and passes the barrier on. It calls Close in the end, whatever happened.
//
// # Words
//
// A record is one element of a stream, and a result is what a function made of one. A call is one
// attempt for one record; a request is a message to a server, in which a function may put the rows
// of many calls. A record is in flight from its admission until it is emitted (Config.Capacity
// bounds these). A call is in progress until its completion (Config.MaxCalls bounds these, and
// Stats.InFlight counts them). A record is held while it waits for the other side and its time
// stands still. A subtask is one of the parallel instances of an operator, and its task is the
// goroutine that runs it.
//
// # Inside
//
//	          +----------------- Operator ------------------+
//	Admit --> | ready --> calling --> judged --> done ------+--> Emitter
//	          |   ^         | |                             |
//	          |   +- held <-+ +-> retrying -+               |
//	          |   +-------------------------+               |
//	          | out of time: whatever is not done is judged |
//	          +-------------+---------------^---------------+
//	                   Call |               | Complete, from any goroutine
//	                        v               |
//	                        your Caller ----+
//
// What the queue does in each case is numbered (A1, A2, ...) in docs/rules.md; comments cite these
// numbers.
package async
