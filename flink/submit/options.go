// Package submit submits pipelines to Beam's job server for Flink, with the options that exist only
// for Flink. It also watches, stops and cancels jobs. [Submit] starts a [Job], whose Wait returns
// how it ended; [Cluster] is Flink's own REST interface. A job costs one connection to the job
// server while it is watched. The package knows nothing about what a pipeline does. Do not use it
// for other runners of Beam.
package submit

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
)

// Defaults of Options.
const (
	DefaultMaxBundleSize = 10_000
	DefaultMaxBundleTime = 200 * time.Millisecond
	DefaultDataBuffer    = 5 * time.Millisecond
)

// NoRestart, as Options.Restarts, makes a job end with its first failure.
const NoRestart = -1

// Options are the options of a job on Flink. JobServer and WorkerPool must be set.
type Options struct {
	// Name is the job's name in Flink's web UI. Default "tensorferry".
	Name string
	// JobServer is the address of Beam's job server, as host:port.
	JobServer string
	// WorkerPool is the address of the worker pool (package worker), as host:port, as each
	// TaskManager sees it. If there is one pool beside each TaskManager, it is a loopback address.
	WorkerPool string
	// Parallelism is the number of subtasks. 0: the cluster's default.
	Parallelism int
	// MaxBundleSize and MaxBundleTime end a bundle, and with it its drain. Default 10,000 records
	// and 200 ms; the time may be 1 ms to 5 s. It is also how long a result may wait for the next
	// record with which it leaves.
	MaxBundleSize int
	MaxBundleTime time.Duration
	// CheckpointInterval is the time between checkpoints. 0: none are taken. A checkpoint first
	// ends the current bundles, and waits for that for at most CheckpointTimeout (0: Flink's
	// default, 10 min). CheckpointPause is the least time from the end of one checkpoint to the
	// start of the next. An interval or a timeout other than 0 must be at least 10 ms.
	CheckpointInterval, CheckpointTimeout, CheckpointPause time.Duration
	// Restarts is how often Flink restarts a failed job, each time after RestartDelay. 0: the
	// cluster's own restart strategy; NoRestart: never.
	Restarts     int
	RestartDelay time.Duration
	// Savepoint is the savepoint to start from, as a path that the cluster can read. Empty: none.
	// With IgnoreLostState the job starts even if the savepoint holds state of operators that the
	// job does not have any more.
	Savepoint       string
	IgnoreLostState bool
	// RetainCheckpoints keeps the newest checkpoint of a job that is cancelled or fails.
	RetainCheckpoints bool
	// Bounded says that the input ends, and that the job then ends too. Without it a job with
	// checkpoints runs until it is stopped, because Flink takes no checkpoints of a job whose
	// sources have ended and whose operators still have timers.
	Bounded bool
	// Experiments are further experiments of Beam, as name=value.
	Experiments []string
}

// Validate checks the options. The error names every option that is wrong.
func (o Options) Validate() error {
	_, err := o.resolve()
	return err
}

// resolve checks the options and fills the defaults in.
func (o Options) resolve() (Options, error) {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf("submit: "+format, args...)) }
	if o.Name == "" {
		o.Name = "tensorferry"
	}
	if o.JobServer == "" {
		wrong("JobServer is missing; want host:port")
	}
	if o.WorkerPool == "" {
		wrong("WorkerPool is missing; want the host:port at which each TaskManager finds its pool")
	}
	if o.Parallelism < 0 {
		wrong("parallelism is %d; want 1 or more, or 0 for the cluster's", o.Parallelism)
	}
	if o.MaxBundleSize < 0 || o.MaxBundleTime < 0 || o.MaxBundleTime > 0 && o.MaxBundleTime < time.Millisecond {
		wrong("bundles of %d records and %v; want 1 or more and 1 ms or more, or 0 for the defaults", o.MaxBundleSize, o.MaxBundleTime)
	}
	if o.MaxBundleSize == 0 {
		o.MaxBundleSize = DefaultMaxBundleSize
	}
	if o.MaxBundleTime == 0 {
		o.MaxBundleTime = DefaultMaxBundleTime
	}
	if most := 5 * time.Second; o.MaxBundleTime > most {
		wrong("bundles of %v; want %v or less, because a channel counts as abandoned when its bundle is idle for longer", o.MaxBundleTime, most)
	}
	if o.CheckpointInterval < 0 || o.CheckpointTimeout < 0 || o.CheckpointPause < 0 || o.RestartDelay < 0 {
		wrong("a checkpoint interval of %v, timeout of %v, pause of %v, restart delay of %v; want none below 0",
			o.CheckpointInterval, o.CheckpointTimeout, o.CheckpointPause, o.RestartDelay)
	}
	if least := 10 * time.Millisecond; o.CheckpointInterval > 0 && o.CheckpointInterval < least || o.CheckpointTimeout > 0 && o.CheckpointTimeout < least {
		wrong("a checkpoint interval of %v and timeout of %v; Flink takes %v or more", o.CheckpointInterval, o.CheckpointTimeout, least)
	}
	if o.Restarts < NoRestart {
		wrong("%d restarts; want 1 or more, 0 for the cluster's strategy, or %d for none", o.Restarts, NoRestart)
	}
	return o, errors.Join(errs...)
}

// proto writes the options as the job server reads them.
func (o Options) proto() (*structpb.Struct, error) {
	ms := func(d time.Duration) any { return d.Milliseconds() }
	m := map[string]any{
		"runner": "FlinkRunner", "app_name": o.Name, "job_name": o.Name,
		// Without it the runner treats a bounded pipeline as a batch, which has no
		// checkpoints and one bundle per task.
		"streaming":               true,
		"max_bundle_size":         o.MaxBundleSize,
		"max_bundle_time_mills":   ms(o.MaxBundleTime),
		"auto_watermark_interval": 100,
		// The bundle ends and drains before the barrier continues: nothing is in flight
		// across it.
		"finish_bundle_before_checkpointing": true,
	}
	if o.Bounded {
		m["shutdown_sources_after_idle_ms"] = 0
	}
	if o.Parallelism > 0 {
		m["parallelism"] = o.Parallelism
	}
	if o.CheckpointInterval > 0 {
		m["checkpointing_interval"] = ms(o.CheckpointInterval)
		m["checkpointing_mode"] = "EXACTLY_ONCE"
		m["externalized_checkpoints_enabled"] = o.RetainCheckpoints
		m["retain_externalized_checkpoints_on_cancellation"] = o.RetainCheckpoints
	}
	if o.CheckpointTimeout > 0 {
		m["checkpoint_timeout_millis"] = ms(o.CheckpointTimeout)
	}
	if o.CheckpointPause > 0 {
		m["min_pause_between_checkpoints"] = ms(o.CheckpointPause)
	}
	switch {
	case o.Restarts == NoRestart:
		m["number_of_execution_retries"] = 0
	case o.Restarts > 0:
		m["number_of_execution_retries"] = o.Restarts
		m["execution_retry_delay"] = ms(o.RestartDelay)
	}
	if o.Savepoint != "" {
		m["savepoint_path"] = o.Savepoint
		m["allow_non_restored_state"] = o.IgnoreLostState
	}
	experiments := []any{"beam_fn_api", fmt.Sprintf("data_buffer_time_limit_ms=%d", DefaultDataBuffer.Milliseconds())}
	for _, e := range o.Experiments {
		experiments = append(experiments, e)
	}
	m["experiments"] = experiments
	named := map[string]any{}
	for name, v := range m {
		switch n := v.(type) {
		case int:
			v = float64(n)
		case int64:
			v = float64(n)
		}
		named["beam:option:"+name+":v1"] = v
	}
	return structpb.NewStruct(named)
}
