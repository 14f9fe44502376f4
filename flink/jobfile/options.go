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
		// A bundle is one split. The results show which splits are done.
		o.Bounded, o.MaxBundleSize = true, 1
	} else {
		o.CheckpointInterval, o.CheckpointTimeout, o.CheckpointPause = interval(spec), c.Timeout, c.MinPause
		// A reader's slice bounds a bundle already. The runner checks the time only now and
		// then, so a longer time would add a pause after each slice.
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
		// The cluster's own strategy applies.
	default:
		if o.Restarts = submit.NoRestart; interval(spec) > 0 {
			o.Restarts, o.RestartDelay = math.MaxInt32, time.Second
		}
	}
}

// liveBundle is the longest time of a bundle whose source has no end.
const liveBundle = 20 * time.Millisecond

// interval is the time between checkpoints. A source without an end always has checkpoints.
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
	return spec.Fault("source.kafka", "reading topics through Beam fills the TaskManager's heap until the job fails, even without records: four "+
		"empty partitions and a heap of 1 GiB had 46 MB after 15 s, 660 MB after 3 minutes, FAILED after 7:41 (docs/flink.md, \"State that grows\")")
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
		say("%v; run needs --accept-growing-state to start such a job, or --savepoint to continue one", err)
	}
	if spec.Source.File != nil {
		say("with files as the source, the results show which splits are done (source.file.split_size); checkpoint.interval is not used. " +
			"run --resume continues a job that failed or was cancelled")
	} else {
		say("results are at least once: after a failure, those since the last checkpoint may be written twice")
		if spec.Checkpoint.Dir != "" || spec.Checkpoint.Retain != 0 || spec.Checkpoint.TolerableFailures != 0 {
			say("checkpoint.dir, retain and tolerable_failures are not used; the cluster's configuration sets them (execution.checkpointing and state)")
		}
	}
	if k := spec.Source.Kafka; k != nil && k.Group != "" {
		say("source.kafka.group, instance, session_timeout and transaction_timeout are not used: Flink's checkpoints keep the offsets, and there is no consumer group")
	}
	if spec.Trace != nil {
		say("trace is not used: no spans are recorded on Flink")
	}
	switch r := &spec.Restart; r.Strategy {
	case "failure-rate":
		say("restart.strategy failure-rate cannot travel with a job; the cluster's own strategy applies (restart-strategy.type in its configuration)")
	case "exponential-delay":
		say("restart.strategy exponential-delay becomes a fixed delay of %v, the only strategy that travels with a job", cmp.Or(r.InitialDelay, time.Second))
	}
	if spec.Restart.Strategy != "none" {
		say("a permanent failure restarts the job like any other; restart: {strategy: fixed-delay, attempts: N} bounds the restarts")
	}
	return notes
}
