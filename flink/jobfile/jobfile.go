// Package jobfile makes a Beam pipeline of a job file, for Flink. The file is the one of the embedded runtime, unchanged; what Flink cannot do
// is refused with its place in the file, and what it does otherwise is said by Notes.
package jobfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/inference"
	"github.com/tensorferry/tensorferry/stream"
)

// shipped is a job file on its way to the workers. Files that it names (certificates, passwords, input) are looked for there.
type shipped struct{ Spec job.Spec }

// Function implements flink.Maker.
func (s shipped) Function() (async.Function[json.RawMessage, json.RawMessage], error) {
	return inference.NewFunction(&s.Spec, s.Spec.Infer.Endpoint, nil)
}

// bounded reports whether the job's source has an end.
func bounded(spec *job.Spec) bool { return spec.Source.File != nil }

// source returns the source of the records.
func (s shipped) source() (stream.Source[json.RawMessage], error) {
	f := s.Spec.Source.File
	action := s.Spec.Infer.OnError[async.BadRecord.String()].Action
	return file.NewRawSource(file.SourceConfig[json.RawMessage]{
		Paths: f.Paths, SplitSize: f.SplitSize, MaxLine: f.MaxLine, Unchecked: action != "" && action != job.ActionFail,
	}), nil
}

// Check says what is wrong with a job file for Flink. The errors are job.Fault, all that were found.
func Check(spec *job.Spec) []error {
	var faults []error
	refuse := func(path, format string, args ...any) { faults = append(faults, spec.Fault(path, format, args...)) }
	check := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	if spec.Source.Stdin != nil {
		refuse("source.stdin", "want files that every worker can read; standard input is that of one process")
	}
	if spec.Sink.Stdout {
		refuse("sink.stdout", "want a folder that every worker can write to; standard output is that of one process")
	}
	if spec.Sidecar != nil {
		refuse("sidecar", "want none on Flink: start a model server beside each TaskManager (tensorferry sidecar) and name its endpoint in infer.endpoint")
	}
	i := &spec.Infer
	switch {
	case i.Order == job.OrderKeyed:
		refuse("infer.order", "want ordered or unordered on Flink; keyed is for the embedded runtime")
	case i.Barrier == job.BarrierSnapshot:
		refuse("infer.barrier", "want drain on Flink: what is in flight cannot go into its checkpoints")
	case i.DrainLimit > 0:
		refuse("infer.drain_limit", "want none on Flink: what is in flight cannot go into its checkpoints")
	}
	cfg, err := inference.OperatorConfig(spec)
	check(err)
	if i.Endpoint != "" {
		if err := inference.CheckEndpoint(spec); err != nil {
			check(err)
		} else if _, err := inference.NewFunction(spec, i.Endpoint, nil); err != nil {
			check(err)
		}
	}
	_ = cfg
	return faults
}

// Splits cuts the job's input.
func Splits(ctx context.Context, spec *job.Spec) ([]stream.Split, error) {
	src, err := shipped{*spec}.source()
	if err != nil {
		return nil, err
	}
	return src.Splits(ctx)
}

// Build adds the job to a pipeline. Splits of the input are those of the time of the call.
func Build(p *beam.Pipeline, spec *job.Spec, splits []stream.Split) error {
	if faults := Check(spec); faults != nil {
		return errors.Join(faults...)
	}
	cfg, err := inference.OperatorConfig(spec)
	if err != nil {
		return err
	}
	cfg.Checkpoint, cfg.DrainLimit = async.Drain, 0
	to := shipped{*spec}
	s := p.Root()
	records, err := read(s.Scope("source"), to, splits)
	if err != nil {
		return err
	}
	answers, failed, err := flink.InferRecords(s, records, to, flink.Config{Name: "infer", Order: inference.Order(&spec.Infer), Async: cfg})
	if err != nil {
		return err
	}
	if err := write(s.Scope("sink"), answers, to, false); err != nil {
		return err
	}
	if spec.DeadLetter == nil {
		return nil
	}
	lines, err := beam.TryParDo(s.Scope("dead-letter"), &letterFn{}, failed)
	if err != nil {
		return fmt.Errorf("flink: dead letters: %w", err)
	}
	return write(s.Scope("dead-letters"), lines[0], to, true)
}
