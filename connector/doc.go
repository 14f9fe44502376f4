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
// also Rebalancing. Describer and Apart are optional.
//
// # Writing a sink
//
// A Sink publishes results exactly once, in two steps. Each subtask has a Writer. At a barrier its
// Prepare makes what was written durable, invisible, and names it (Pending). When the checkpoint of
// that barrier is complete, the Committer carries out the plan that the checkpoint holds, and the
// results become visible. After a crash the plan is carried out again, so Commit must be
// idempotent.
//
// Checker, Rewinder, Salvager and Holder are optional.
//
// # What may block
//
// Splits, Verify, Open, Read, Prepare, Commit and Close may block; those with a context return when
// it ends. Write, Plan, Describe and Full must not wait for another system. A slice that the
// runtime passes is valid until the method returns; the values in it are the connector's to keep.
package connector
