package async

// The operator as hosts see it (implementation follows). All methods but the
// Completer's are called from one goroutine, the task.
//
//	NewOperator[IN, OUT](fn Function[IN, OUT], order Order, cfg Config, sub Subtask, wake func()) (*Operator[IN, OUT], error)
//	    cfg is checked and resolved. wake is called, from any goroutine, when Step should run again.
//	(*Operator) Open(ctx) error                    // opens the caller; blocks
//	(*Operator) Room() int                         // elements that Admit/Watermark take now (0 while a drain is under way)
//	(*Operator) Admit(recs []Record[IN]) int       // takes up to Room records, returns how many
//	(*Operator) Watermark(w Watermark) bool        // false: no room
//	(*Operator) Barrier(id int64)                  // handled at the next Step, also when full
//	(*Operator) AbortBarrier(id int64)             // the checkpoint was given up; admission resumes
//	(*Operator) End()                              // no more input
//	(*Operator) Restore(recs []Record[IN])         // before any Admit: entries of a snapshot, called first, with any capacity
//	(*Operator) Step(now time.Time, max int, out Emitter[OUT]) (Status[IN], error)
//	    takes completions, fires timers, makes calls, emits at most max entries (0: downstream is blocked). An error is the failure
//	    of the operator; after it only Close follows.
//	(*Operator) Stats() Stats                      // in flight, queued, ... (for progress and metrics)
//	(*Operator) Close() error                      // cancels, waits; idempotent
//
//	type Emitter[OUT any] interface { Emit([]Record[OUT]); Watermark(Watermark) }   // slices valid until return
//	type Status[IN any] struct {
//	    Barrier  int64          // != 0: this barrier passes now, behind everything emitted so far; the host snapshots and forwards it
//	    Entries  []Record[IN]   // with Barrier under Snapshot: the records not yet emitted, oldest first; copied, the host's
//	    Watermarks []QueuedWatermark // with Barrier under Snapshot: where watermarks stand among Entries
//	    Ended    bool           // End was called and everything is emitted
//	    More     bool           // Step has more to do right now (emission was cut by max, or input can go on)
//	    Next     time.Time      // when Step must run again if nothing wakes it; zero: no timer
//	}
