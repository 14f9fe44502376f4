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

// checkApart reports whether the job would read its own output. runs is true if the job is about to
// run, with this process's standard input and output.
func checkApart(ctx context.Context, spec *job.Spec, p parts, runs bool) (faults []error) {
	source, ok := p.source.(connector.LoopChecker)
	if !ok || spec.Source.Stdin != nil && !runs {
		return nil
	}
	own := map[string]any{} // the job's outputs, by the keys that name them
	if !spec.Sink.Stdout || runs {
		own["sink.kafka.topic"] = p.sink
	}
	if p.letters != nil {
		own["dead_letter.kafka.topic"] = p.letters
	}
	if dir := CheckpointDir(spec); dir != "" {
		own["checkpoint.dir"] = file.Output{Path: dir, Names: checkpoint.Files()}
	}
	if spec.Source.Kafka == nil { // with files, the path of the input is at fault
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
