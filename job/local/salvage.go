package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// goOn completes the checkpoint to continue from, or what is known of the run to be replaced. It is
// needed where newer checkpoints are damaged or gone, or are passed over by --from: results may
// have been published after the checkpoint.
func (j *Job) goOn(ctx context.Context, run *checkpoint.Run, broken bool) (err error) {
	spec, p, o, log := j.spec, j.parts, &j.opts, j.log
	committers := map[string]connector.Committer{}
	defer func() {
		for _, c := range committers {
			err = also(err, c.Close())
		}
	}()
	for name, sink := range map[string]connector.Sink[Record]{SinkName: p.sink, LettersName: p.letters} {
		if sink == nil {
			continue
		}
		if committers[name], err = sink.Committer(ctx); err != nil {
			delete(committers, name)
			return err
		}
	}
	from := run.Restore
	switch {
	case from == nil && broken && o.Fresh:
		run.Previous, err = stream.Reclaim(ctx, run.Previous, committers)
		return err
	case from == nil, from.Finished:
		return nil
	case run.Newest != nil && run.Newest.ID > from.ID:
		if from, err = stream.Rewind(from, run.Newest, committers); err != nil {
			return err
		}
	}
	newer := run.LastID > run.Restore.ID
	if run.Newest != nil {
		newer = run.LastID > run.Newest.ID
	}
	compare := o.From == "" && remakes(spec)
	snap, beyond, blind, err := stream.Salvage(ctx, from, connector.SalvageOptions{NewerGone: newer, Compare: compare}, committers)
	if err != nil {
		return fmt.Errorf("%s cannot continue from checkpoint %d: %w", run.ID, from.ID, err)
	}
	run.Restore = snap
	// There may have been results that cannot be found: in a sink that cannot be searched, or
	// in files that were taken away.
	unseen := len(blind) > 0 || consumed(spec)
	switch lost := len(beyond) > 0 || newer && unseen; {
	case !lost:
		return nil
	case o.From != "":
		log.Warn("results that were published after the checkpoint are replaced, or written again", "checkpoint", from.ID, "published", named(beyond))
		return nil
	case compare:
		log.Warn("newer checkpoints are damaged or gone; results that were published after this one are made again and compared",
			"checkpoint", from.ID, "published", named(beyond))
		return nil
	}
	why := "are gone"
	if len(run.Damaged) > 0 {
		why = fmt.Sprintf("are damaged or gone (%v)", errors.Join(run.Damaged...))
	}
	what := "results may have been written after it"
	if len(beyond) > 0 {
		what = "results were published after it, " + named(beyond)
	}
	return refuse("%s cannot continue by itself: checkpoints newer than %d %s, and %s. Only a job from files to files, ordered and without dead letters, can make these results again and compare them. "+
		"Continue with --from %d, which replaces files and writes to other places again, or discard the run with --fresh", run.ID, from.ID, why, what, from.ID)
}

// consumed reports whether others take published files of the job away.
func consumed(spec *job.Spec) bool {
	l := spec.DeadLetter
	return spec.Sink.File != nil && spec.Sink.File.Consumed || l != nil && l.File != nil && l.File.Consumed
}

// remakes reports whether a job makes the same results in the same places each time.
func remakes(spec *job.Spec) bool {
	return spec.Source.File != nil && spec.Sink.File != nil && !consumed(spec) && spec.DeadLetter == nil &&
		(spec.Infer.Order == "" || spec.Infer.Order == job.OrderOrdered)
}

// named lists what was found, by sink.
func named(beyond map[string][]string) string {
	var all []string
	for _, sink := range slices.Sorted(maps.Keys(beyond)) {
		all = append(all, sink+": "+strings.Join(beyond[sink], ", "))
	}
	return strings.Join(all, "; ")
}
