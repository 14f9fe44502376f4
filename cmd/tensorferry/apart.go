package main

import (
	"context"

	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// checkApart says whether the job would read what it writes itself. runs says that this process's
// standard input and output are the job's.
func checkApart(ctx context.Context, spec *job.Spec, p parts, runs bool) (faults []error) {
	source, ok := p.source.(stream.Apart)
	if !ok || spec.Source.Stdin != nil && !runs {
		return nil
	}
	check := func(at string, own any) {
		switch {
		case spec.Source.File != nil:
			at = "source.file.path"
		case spec.Source.Stdin != nil:
			at = "source.stdin"
		}
		if err := source.Apart(ctx, own); err != nil {
			faults = append(faults, spec.Fault(at, "%v", err))
		}
	}
	if !spec.Sink.Stdout || runs {
		check("sink.kafka.topic", p.sink)
	}
	if p.letters != nil {
		check("dead_letter.kafka.topic", p.letters)
	}
	if dir := stateDir(spec); dir != "" {
		check("checkpoint.dir", file.Output{Path: dir, Names: checkpoint.Files()})
	}
	return faults
}
