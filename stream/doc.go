// Package stream is the embedded runtime: a job of sources, functions and sinks
// that runs inside one Go process, in parallel subtasks, with checkpoints,
// restarts and results that are published exactly once.
//
//	j := stream.New("digits", stream.Config{Parallelism: 2})
//	records := stream.From(j, source)
//	labels := stream.Async(records, classify, async.Config{Timeout: time.Second})
//	stream.To(labels, sink)
//	err := j.Run(ctx)
//
// It owns the plan of a job, the loop of a subtask, the exchanges between
// subtasks, barriers and watermarks, the checkpoint coordinator, and restarts. It must
// never know what a function calls, what a source reads or where a sink writes,
// nor the files in which checkpoints are kept.
//
// # How it is made
//
// The plan cuts the operators into stages at the exchanges. The subtasks of a stage each
// run a chain of operators in one goroutine. The subtask (task), the coordinator,
// the committer and the supervisor are step functions: an event and the time
// come in, effects go out, and nothing inside them waits, so one seeded loop can
// drive a whole job in tests. The runtime puts thin goroutines around them.
//
// Records travel between goroutines in slices, through ports of a few places
// each. A sender whose port is full takes in and emits nothing more, while
// its completions, timers and barriers go on.
//
// The files, for newcomers: job.go, config.go, option.go and stream.go are the
// surface; plan.go cuts the stages; task.go is the step function of a subtask,
// with its heads (source.go, exchange.go) and operators (transform.go, asyncwait.go,
// sink.go); coordinator.go and committer.go take checkpoints, restore.go goes
// back to one, supervisor.go judges failures; runtime.go and attempt.go drive it
// all; memory.go holds sources, sinks and a store that need no files.
package stream
