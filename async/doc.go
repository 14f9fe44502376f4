// Package async is an asynchronous operator: records go in, a function is called for each without
// waiting for the one before, and results come out in order, by key, or as they are done. Bounds in
// records, bytes and calls, timeouts, retries, holds, barriers and policies for failures are Config.
//
// Map runs it over an iterator. Operator is the same as a step function, for hosts that have
// sources, sinks and checkpoints of their own, as package stream does. The rules by which it works
// are in docs/rules.md, cited by their numbers (A12).
package async
