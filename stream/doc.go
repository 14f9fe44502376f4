// Package stream runs a job of sources, functions and sinks inside one Go process, in parallel
// subtasks, with checkpoints and restarts. Results are published exactly once.
//
//	j := stream.New("digits", stream.Config{Parallelism: 2})
//	records := stream.From(j, source)
//	labels := stream.Async(records, classify, async.Config{Timeout: time.Second})
//	stream.To(labels, sink)
//	err := j.Run(ctx)
//
// Each subtask of a source, and each exchange (KeyBy, Rebalance, another Parallel), costs
// goroutines and bounded queues of slices. An operator that follows in the same subtask costs a
// function call for each slice. Results become visible when their checkpoint is complete: once in
// each checkpoint interval or, without one, at the end of the input. Use async.Map for a loop that
// needs no checkpoints, and the module flink for a job on several machines.
//
// The package owns the plan of a job, the loop of a subtask, the exchanges between subtasks,
// barriers and watermarks, the checkpoint coordinator, and restarts. It must never know what a
// function calls, what a source reads, where a sink writes, or in which files checkpoints are kept.
//
// # Words
//
// A job is the plan of sources, operators and sinks. A run is one pass of a job over its input; it
// keeps its id through restarts and resumptions, each of which is an attempt of the run. A split is
// a part of a source that one subtask reads. A barrier separates the records of one checkpoint from
// those of the next. A snapshot is what one checkpoint keeps. A watermark says that no record at or
// before its event time follows. Package async defines record, call, in flight, held and subtask.
//
// # How it is made
//
// The plan cuts the operators into stages at the exchanges. Each subtask of a stage runs a chain of
// operators in one goroutine. The subtask (task), the coordinator, the committer and the supervisor
// are step functions: an event and the time come in, effects go out, and nothing inside them waits.
// So one seeded loop can drive a whole job in tests. The runtime puts thin goroutines around them.
//
// Records travel between goroutines in slices, through ports of a few places each. A sender whose
// port is full takes in and emits nothing more, while its completions, timers and barriers go on.
//
// The files, for newcomers: job.go, config.go, option.go and stream.go are the surface; plan.go
// cuts the stages; task.go is the step function of a subtask, with its heads (source.go,
// exchange.go) and operators (transform.go, asyncwait.go, sink.go); coordinator.go and committer.go
// take checkpoints, restore.go goes back to one, supervisor.go judges failures; runtime.go and
// attempt.go drive it all; memory.go holds sources, sinks and a store that need no files.
package stream
