package jobfile

import (
	"cmp"
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/flink/submit"
	"github.com/tensorferry/tensorferry/job"
)

// Options takes what a job file says of parallelism, checkpoints and restarts into the options of its submission.
func Options(spec *job.Spec, o *submit.Options) {
	o.Name, o.Parallelism = spec.Name, spec.Parallelism
	if spec.Source.File != nil {
		// Elements of the first stage are splits of files.
		o.Bounded, o.MaxBundleSize = true, 1
	}
	c := &spec.Checkpoint
	o.CheckpointInterval, o.CheckpointTimeout, o.CheckpointPause = c.Interval, c.Timeout, c.MinPause
	switch r := &spec.Restart; r.Strategy {
	case "none":
		o.Restarts = submit.NoRestart
	case "fixed-delay":
		o.Restarts, o.RestartDelay = cmp.Or(r.Attempts, 1), cmp.Or(r.Delay, time.Second)
	case "":
		if c.Interval == 0 {
			o.Restarts = submit.NoRestart
		}
	}
}

// Notes says what is otherwise on Flink than in the embedded runtime, for this job file.
func Notes(spec *job.Spec) []string {
	var notes []string
	say := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if spec.Sink.File != nil {
		say("results in files are at least once: after a failure, those since the last checkpoint may be there twice, as files that overlap")
	}
	if spec.DeadLetter != nil {
		say("dead letters are at least once, as results are")
	}
	if r := spec.Restart.Strategy; r == "failure-rate" || r == "exponential-delay" {
		say("restart.strategy: a job can bring fixed-delay or none; with %s the cluster's own strategy applies (restart-strategy.type in its configuration)", r)
	}
	if spec.Restart.Strategy == "" && spec.Checkpoint.Interval > 0 {
		say("restart.strategy: none is given, so that of the cluster applies")
	}
	say("a permanent failure restarts the job as any other does; restart: {strategy: fixed-delay} bounds that")
	if spec.Checkpoint.Interval == 0 {
		say("checkpoint.interval: without one a job that fails begins anew")
	}
	if spec.Checkpoint.Dir != "" || spec.Checkpoint.Retain != 0 || spec.Checkpoint.TolerableFailures != 0 {
		say("checkpoint.dir, retain and tolerable_failures are the cluster's to set (execution.checkpointing and state in its configuration)")
	}
	return notes
}
