package local

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// CheckpointDir returns the folder of a job's checkpoints. It is empty if the job has no such
// folder. A job from Kafka to Kafka keeps its checkpoints with its consumer group.
func CheckpointDir(spec *job.Spec) string {
	switch {
	case spec.Checkpoint.Dir != "":
		return spec.Checkpoint.Dir
	case spec.Sink.File != nil:
		return filepath.Join(spec.Sink.File.Path, ".checkpoints")
	case spec.KafkaToKafka():
		return "" // the consumer group keeps it
	case spec.DeadLetter != nil && spec.DeadLetter.File != nil:
		// The next run has to know which files in the folder an earlier run wrote.
		return filepath.Join(spec.DeadLetter.File.Path, ".checkpoints")
	}
	return ""
}

// openStore opens the job's checkpoint folder and locks it. It returns nil if the
// job has none: its run then cannot be resumed.
func openStore(spec *job.Spec, log *slog.Logger) (*checkpoint.Store, error) {
	dir := CheckpointDir(spec)
	if dir == "" {
		return nil, nil
	}
	store, err := checkpoint.Open(dir, checkpoint.Options{Retain: spec.Checkpoint.Retain, Logger: log})
	if _, ok := errors.AsType[*checkpoint.LockedError](err); ok {
		return nil, &RefusedError{err}
	}
	return store, err
}

// refused returns what begin would refuse, as far as it is known without changing anything.
func (j *Job) refused(store *checkpoint.Store) error {
	spec, o := j.spec, &j.opts
	again := o.Resume || o.From != ""
	if store == nil {
		if spec.KafkaToKafka() && (again || o.Fresh) {
			return refuse("a job from Kafka to Kafka always continues at the offsets of its consumer group; to read records again, set the offsets of the group %q while no member runs, or use another group", spec.Source.Kafka.Group)
		}
		if again {
			return refuse("the job keeps no checkpoints, so there is nothing to resume; give it a folder (checkpoint: {dir: ...}) or run without the flag")
		}
		return nil
	}
	if o.Fresh {
		return nil // a run that cannot be read may be discarded too
	}
	st, err := store.State()
	gone, isGone := errors.AsType[*checkpoint.GoneError](err)
	switch {
	case errors.Is(err, checkpoint.ErrCorrupt) && o.From != "":
		return nil // begin says what it finds
	case isGone && st.Job == spec.Name && spec.Source.Stdin == nil:
		return refuse("%w; nothing else records how far the run came. Put the checkpoints back and continue with --resume, "+
			"or discard the run with --fresh, which starts again and %s", gone, anew(spec))
	case errors.Is(err, checkpoint.ErrCorrupt):
		return refuse("%w; continue from an undamaged checkpoint with --from, or discard the run with --fresh", err)
	case err != nil:
		return err
	case st.Job != "" && st.Job != spec.Name:
		return &RefusedError{&checkpoint.OtherJobError{Dir: store.Dir(), Owner: st.Job, Job: spec.Name}}
	case st.Phase != checkpoint.Unfinished:
		return nil
	}
	at := "before its first checkpoint"
	if st.Newest != nil && st.Newest.ID > 0 {
		at = fmt.Sprintf("at checkpoint %d", st.Newest.ID)
	}
	switch {
	case spec.Source.Stdin != nil:
		return refuse("%s holds an unfinished run (%s) of standard input, which cannot be read again; discard it with --fresh", store.Dir(), at)
	case !again:
		return refuse("%s holds an unfinished run (%s); continue with --resume or discard with --fresh", store.Dir(), at)
	}
	return nil
}

// anew says what a new run does about the results of the last one.
func anew(spec *job.Spec) string {
	if spec.Sink.File != nil && !spec.Sink.File.Consumed {
		return "replaces the files in " + spec.Sink.File.Path
	}
	return "writes all results to " + SinkPlace(spec) + " again"
}

// begin starts or resumes a run.
func (j *Job) begin(store *checkpoint.Store) (run *checkpoint.Run, err error) {
	spec, o := j.spec, &j.opts
	switch {
	case store == nil:
		return &checkpoint.Run{}, nil
	case o.From != "":
		run, err = store.From(spec.Name, o.From)
	case o.Resume:
		run, err = store.Resume(spec.Name)
	case o.Fresh:
		run, err = store.Fresh(spec.Name)
	default:
		run, err = store.Start(spec.Name)
	}
	if _, ok := errors.AsType[*checkpoint.OtherJobError](err); ok || errors.Is(err, checkpoint.ErrNoCheckpoint) {
		return nil, &RefusedError{err}
	}
	if err != nil {
		return nil, err
	}
	if run.Restore != nil {
		run.Restore = mended(run.Restore, identity(spec))
		if err := checkpoint.Compare(run.Restore.Identity, identity(spec)); err != nil {
			return nil, refuse("%s cannot be resumed: %w; change the job file back, or discard the run with --fresh", run.ID, err)
		}
	}
	return run, nil
}
