package local

import (
	"context"
	"maps"
	"slices"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// checkApart says whether the job would read what it writes itself. runs says that this process's
// standard input and output are the job's.
func checkApart(ctx context.Context, spec *job.Spec, p parts, runs bool) (faults []error) {
	source, ok := p.source.(connector.LoopChecker)
	if !ok || spec.Source.Stdin != nil && !runs {
		return nil
	}
	own := map[string]any{} // with the places in the file that say where it goes
	if !spec.Sink.Stdout || runs {
		own["sink.kafka.topic"] = p.sink
	}
	if p.letters != nil {
		own["dead_letter.kafka.topic"] = p.letters
	}
	if dir := CheckpointDir(spec); dir != "" {
		own["checkpoint.dir"] = file.Output{Path: dir, Names: checkpoint.Files()}
	}
	if spec.Source.Kafka == nil { // of files the input is the one that is named wrongly
		at := "source.file.path"
		if spec.Source.Stdin != nil {
			at = "source.stdin"
		}
		var all []any
		for _, to := range slices.Sorted(maps.Keys(own)) {
			all = append(all, own[to])
		}
		if err := source.CheckLoop(ctx, all...); err != nil {
			faults = append(faults, spec.Fault(at, "%v", err))
		}
		return faults
	}
	for _, at := range slices.Sorted(maps.Keys(own)) {
		if err := source.CheckLoop(ctx, own[at]); err != nil {
			faults = append(faults, spec.Fault(at, "%v", err))
		}
	}
	return faults
}
