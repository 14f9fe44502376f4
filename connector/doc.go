// Package connector is the contract between a runtime and the systems that a job reads and writes.
// It knows no runtime: package stream runs connectors on one machine, and the module flink runs the
// same ones on Apache Flink. Package connectortest tests a connector against this contract.
//
// # Writing a source
//
// A Source cuts its input into splits, once for each run: ranges of a file, or partitions of a log.
// A Reader reads one split in order and returns records in slices, each with the position behind
// it. Checkpoints keep the splits and the positions. After a restore Verify says whether the input
// is still what it was, and reading goes on at the positions.
//
// A source whose splits have no end is Unbounded. A source whose splits change while a job runs is
// also Rebalancing. Describer and LoopChecker are optional.
//
// # Writing a sink
//
// A Sink publishes results exactly once, in two steps: writers prepare them, and a committer makes
// them visible when their checkpoint is complete. These are the calls, in order:
//
//	Committer                the run's committer
//	Begin, Clean             for a run that begins afresh; both may be repeated after a crash
//	Open, Write, Write ...   in each subtask
//	Prepare                  at each barrier: what was written is durable, and not visible
//	Plan                     decides where it goes; the checkpoint keeps the plan and the state
//	                         -- the checkpoint is durable --
//	Commit                   carries the plan out: the results are visible
//	CheckpointDone           of a LimitedWriter
//
// After a crash the newest checkpoint is restored: Commit of its plan, then Check, then Clean, and
// then Open. So Commit must be idempotent, and what was prepared after that checkpoint is removed
// by Clean. Write goes on while a checkpoint is completed. Writer.Close and Committer.Close may be
// called at any time after they were opened.
//
// A sink that cannot hide results, as a topic without transactions, may make them visible at once.
// It is then at least once: after a crash records since the last checkpoint are written again. Its
// documentation must say so.
//
// Checker, Rewinder, Salvager and LimitedWriter are optional.
//
// # What may block
//
// Methods with a context may block until it ends; so may Close. All others must not wait for
// another system: Write, Plan, Describe, Full, CheckpointDone, Rewind and Unsettled.
//
// # Slices
//
// A slice that the runtime passes to Write or Plan is valid until the method returns; the values in
// it belong to the connector. Read appends to dst, which it must not keep: the slice that it
// returns and the values in it belong to the runtime. The bytes of a state, a plan or a Pending
// must not be changed any more by the side that passed them on.
package connector
