package jobfile

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/tensorferry/tensorferry/flink/submit"
	"github.com/tensorferry/tensorferry/job"
)

// Options copies the job file's parallelism, checkpoints and restarts into the options of its
// submission.
func Options(spec *job.Spec, o *submit.Options) {
	o.Name, o.Parallelism = spec.Name, spec.Parallelism
	c := &spec.Checkpoint
	if spec.Source.File != nil {
		// A bundle is a split, and what is done the results tell.
		o.Bounded, o.MaxBundleSize = true, 1
	} else {
		o.CheckpointInterval, o.CheckpointTimeout, o.CheckpointPause = interval(spec), c.Timeout, c.MinPause
		// What a reader reads before it gives way bounds a bundle already. The runner looks at the
		// time only now and then, and a longer one would be a pause behind each slice.
		o.MaxBundleTime = cmp.Or(o.MaxBundleTime, liveBundle)
	}
	r := &spec.Restart
	switch r.Strategy {
	case "none":
		o.Restarts = submit.NoRestart
	case "fixed-delay":
		o.Restarts, o.RestartDelay = cmp.Or(r.Attempts, 1), cmp.Or(r.Delay, time.Second)
	case "exponential-delay":
		o.Restarts, o.RestartDelay = cmp.Or(r.Attempts, math.MaxInt32), cmp.Or(r.InitialDelay, time.Second)
	case "failure-rate":
		// The cluster's.
	default:
		if o.Restarts = submit.NoRestart; interval(spec) > 0 {
			o.Restarts, o.RestartDelay = math.MaxInt32, time.Second
		}
	}
}

// liveBundle is the time of a bundle with a source that has no end.
const liveBundle = 20 * time.Millisecond

// interval is the time between checkpoints. A source without an end has them in any case.
func interval(spec *job.Spec) time.Duration {
	if spec.Checkpoint.Interval == 0 && spec.Source.Kafka != nil {
		return time.Second
	}
	return spec.Checkpoint.Interval
}

// GrowingState returns a job.Fault at the source if the job's state on Flink grows until the job
// fails, and otherwise nil. The state grows with each resumption of a splittable DoFn, which reads
// topics. Files are not read by one, and a topic as the sink changes nothing.
func GrowingState(spec *job.Spec) error {
	if spec.Source.Kafka == nil {
		return nil
	}
	return spec.Fault("source.kafka", "topics read through Beam fill the TaskManager's heap until the job fails, even topics without records: seen with four "+
		"empty partitions and a heap of 1 GiB, 46 MB after 15 s, 660 MB after 3 minutes, FAILED after 7:41 (docs/flink.md, \"State that grows\")")
}

// Notes returns what works differently on Flink than in the embedded runtime, for this job file.
// docs/flink.md has the whole table.
func Notes(spec *job.Spec) []string {
	var notes []string
	say := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	for _, w := range spec.Warnings {
		say("%v", w)
	}
	if err := GrowingState(spec); err != nil {
		say("%v; run wants --accept-growing-state for such a job, or --savepoint for one that goes on", err)
	}
	if spec.Source.File != nil {
		say("with files as the source the results tell what is done, split by split (source.file.split_size); checkpoint.interval is not used. " +
			"run --resume goes on where a job has ended that failed or was cancelled")
	} else {
		say("results are at least once: after a failure, those since the last checkpoint may be there twice")
		if spec.Checkpoint.Dir != "" || spec.Checkpoint.Retain != 0 || spec.Checkpoint.TolerableFailures != 0 {
			say("checkpoint.dir, retain and tolerable_failures are the cluster's to set (execution.checkpointing and state in its configuration)")
		}
	}
	if k := spec.Source.Kafka; k != nil && k.Group != "" {
		say("source.kafka.group, instance, session_timeout and transaction_timeout are not used: the offsets are in Flink's checkpoints, and there is no consumer group")
	}
	if spec.Trace != nil {
		say("trace is not used: no spans are made on Flink")
	}
	switch r := &spec.Restart; r.Strategy {
	case "failure-rate":
		say("restart.strategy failure-rate cannot travel with a job; the cluster's own strategy applies (restart-strategy.type in its configuration)")
	case "exponential-delay":
		say("restart.strategy exponential-delay becomes a fixed delay of %v, since a job can bring no other", cmp.Or(r.InitialDelay, time.Second))
	}
	if spec.Restart.Strategy != "none" {
		say("a permanent failure restarts the job as any other does; restart: {strategy: fixed-delay, attempts: N} bounds that")
	}
	return notes
}
