package jobfile

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/internal/fsx"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/kafkatopics"
)

// files are patterns for the names of the files in the folders of a job's results and dead letters,
// in the form of file.Output.
var files = []string{"part-[0-9]*[0-9].jsonl", pendingPrefix + "*", markName, fsx.TempPrefix + "*"}

// checkApart reports what is wrong with the source's patterns, and whether the job would read its
// own output.
func checkApart(spec *job.Spec) (faults []error) {
	ships := shipped{*spec}
	refuse := func(at string, err error) {
		if err != nil {
			faults = append(faults, spec.Fault(at, "%v", err))
		}
	}
	switch {
	case spec.Source.File != nil:
		source, own := ships.source(), []any{}
		for _, dir := range slices.Sorted(maps.Values(sinks(spec))) {
			own = append(own, file.Output{Path: dir, Names: files})
		}
		err := source.Validate()
		if err == nil {
			err = source.CheckLoop(context.Background(), own...)
		}
		refuse("source.file.path", err)
	case spec.Source.Kafka != nil:
		source, err := ships.live()
		if err != nil {
			return nil // checkKafka reports what can be known here
		}
		check := func(at string, k *job.KafkaSink) {
			if k == nil {
				return
			}
			if sink, err := kafkatopics.NewSink(spec, k, at, kafkatopics.Encoder(k, nil), slog.Default()); err == nil {
				refuse(at+".topic", source.CheckLoop(context.Background(), sink))
			}
		}
		check("sink.kafka", spec.Sink.Kafka)
		if spec.DeadLetter != nil {
			check("dead_letter.kafka", spec.DeadLetter.Kafka)
		}
	}
	return faults
}
