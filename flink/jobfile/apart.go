package jobfile

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/internal/fsx"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/topics"
	"github.com/tensorferry/tensorferry/stream"
)

// files are the names of the files in the folders of a job's results and dead letters, as
// file.Folder has them.
var files = []string{"part-[0-9]*[0-9].jsonl", pendingPrefix + "*", markName, fsx.TempPrefix + "*"}

// checkApart says what is wrong with the source's patterns, and whether the job would read what it
// writes itself.
func checkApart(spec *job.Spec) (faults []error) {
	var source stream.Apart
	check := func(at string, own any) {
		if spec.Source.File != nil {
			at = "source.file.path"
		}
		if err := source.Apart(context.Background(), own); err != nil {
			faults = append(faults, spec.Fault(at, "%v", err))
		}
	}
	switch {
	case spec.Source.File != nil:
		src := shipped{*spec}.source()
		if err := src.Validate(); err != nil {
			return []error{spec.Fault("source.file.path", "%v", err)}
		}
		source = src
	case spec.Source.Kafka != nil:
		src, err := shipped{*spec}.live()
		if err != nil {
			return nil // which is said elsewhere
		}
		source = src
	default:
		return nil
	}
	folders := sinks(spec)
	for _, at := range slices.Sorted(maps.Keys(folders)) {
		check(at, file.Output{Path: folders[at], Names: files})
	}
	topic := func(k *job.KafkaSink, at string) {
		if k == nil {
			return
		}
		if sink, err := topics.NewSink(spec, k, at, topics.Encoder(k, nil), slog.Default()); err == nil {
			check(at+".topic", sink)
		}
	}
	topic(spec.Sink.Kafka, "sink.kafka")
	if spec.DeadLetter != nil {
		topic(spec.DeadLetter.Kafka, "dead_letter.kafka")
	}
	return faults
}
