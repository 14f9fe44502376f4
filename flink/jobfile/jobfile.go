// Package jobfile makes Beam pipelines for Flink of job files. The file is the same as for package
// job/local, unchanged. Load it with package job, call [Check] and [Build], set the options of the
// submission with [Options], and submit the pipeline with package submit. What Flink cannot do is
// refused with its place in the file. [Notes] says what works differently on Flink. On one machine,
// package job/local runs the same file faster and without a cluster.
package jobfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/embedded"
	"github.com/tensorferry/tensorferry/job/inference"
)

// shipped is a job file on its way to the workers. Files that it names (certificates, passwords,
// input) are looked for there.
type shipped struct{ Spec job.Spec }

// DefaultSplitSize is how many bytes of a file a subtask reads in one bundle. It is far smaller
// than the embedded runtime's, because a checkpoint waits for the splits that are being read.
const DefaultSplitSize = 1 << 20

// ship returns the form of a job file that reaches the workers. It lacks the places in the file.
func ship(spec *job.Spec) (s shipped, err error) {
	s.Spec = *spec
	s.Spec.Trace = nil // workers record no spans, and the section's headers may be secrets
	text, err := s.text()
	if err != nil {
		return s, err
	}
	return arrived(text)
}

// text returns a job in the form that a transform carries. It is text, because Beam wants a schema
// for every field of a transform's type.
func (s shipped) text() (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // keep the values of fallbacks as the file has them
	err := e.Encode(s)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// arrived reads a job from the form that text returns.
func arrived(text string) (s shipped, err error) {
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("flink: the job that was sent to the worker cannot be read: %w", err)
	}
	return s, nil
}

// source returns the source of the records.
func (s shipped) source() *file.Source[json.RawMessage] {
	f := *s.Spec.Source.File
	if f.SplitSize == 0 {
		f.SplitSize = DefaultSplitSize
	}
	action := s.Spec.Infer.OnError[async.BadRecord.String()].Action
	decode := file.Raw
	if action != "" && action != job.ActionFail {
		decode = file.Unchecked
	}
	return file.NewSource(file.SourceConfig[json.RawMessage]{Paths: f.Paths, Decode: decode, SplitSize: f.SplitSize, MaxLine: f.MaxLine})
}

// Check returns everything that is wrong with a job file for Flink. Each error is a job.Fault.
func Check(spec *job.Spec) []error {
	var faults []error
	refuse := func(path, format string, args ...any) { faults = append(faults, spec.Fault(path, format, args...)) }
	check := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	if spec.Source.Stdin != nil {
		refuse("source.stdin", "want files that every worker can read; only one process has this standard input")
	}
	if spec.Sink.Stdout {
		refuse("sink.stdout", "want a folder that every worker can write to; only one process has this standard output")
	}
	const done = "want no consumed on Flink: the files show which splits are done"
	if f := spec.Sink.File; f != nil && f.Consumed {
		refuse("sink.file.consumed", done)
	}
	if d := spec.DeadLetter; d != nil && d.File != nil && d.File.Consumed {
		refuse("dead_letter.file.consumed", done)
	}
	i := &spec.Infer
	switch {
	case i.Order == job.OrderKeyed:
		refuse("infer.order", "want ordered or unordered on Flink; only the embedded runtime has keyed")
	case i.Barrier == job.BarrierSnapshot:
		refuse("infer.barrier", "want drain on Flink: its checkpoints cannot hold records in flight")
	case i.DrainLimit > 0:
		refuse("infer.drain_limit", "want no drain_limit on Flink: its checkpoints cannot hold records in flight")
	}
	checkKafka(spec, refuse)
	faults = append(faults, checkApart(spec)...)
	_, err := inference.OperatorConfig(spec)
	check(err)
	if err := inference.CheckEndpoint(spec); err != nil {
		check(err)
	} else {
		_, err := shipped{*spec}.Function()
		check(err)
	}
	faults = append(faults, embedded.Check(spec)...)
	return faults
}

// Build adds the job to a pipeline. It cuts the input files now, so files and lines that are added
// later are not read. For topics it finds out now where to begin, unless that is their first
// record. With resumed set, the job continues with the files in the folders of its sinks.
func Build(ctx context.Context, p *beam.Pipeline, spec *job.Spec, resumed bool) error {
	if faults := Check(spec); faults != nil {
		return errors.Join(faults...)
	}
	cfg, err := inference.OperatorConfig(spec)
	if err != nil {
		return err
	}
	cfg.Barrier = async.Drain
	to, err := ship(spec)
	if err != nil {
		return err
	}
	s := p.Root()
	records, files, err := to.read(ctx, s.Scope("source"), spec, resumed)
	if err != nil {
		return err
	}
	answers, failed, err := flink.InferRecords(s, records, to, flink.Config{Name: "infer", Async: cfg})
	if err != nil {
		return err
	}
	if err := to.write(s.Scope("sink"), answers, false); err != nil {
		return err
	}
	if spec.DeadLetter == nil {
		return nil
	}
	text, err := to.text()
	if err != nil {
		return err
	}
	lines, err := beam.TryParDo(s.Scope("dead-letter"), &letterFn{Job: text, Files: files}, failed)
	if err != nil {
		return fmt.Errorf("flink: dead letters: %w", err)
	}
	return to.write(s.Scope("dead-letters"), lines[0], true)
}

// read adds the job's source, and claims the folders of its sinks. spec has the places in the file,
// which s lacks. files are the files of the splits, if the job reads files.
func (s shipped) read(ctx context.Context, scope beam.Scope, spec *job.Spec, resumed bool) (records beam.PCollection, files splitFiles, err error) {
	if spec.Source.Kafka != nil {
		if err := claim(spec, nil, resumed); err != nil {
			return records, nil, err
		}
		records, err = readLive(ctx, scope, s)
		return records, nil, err
	}
	src := s.source()
	splits, err := src.Splits(ctx)
	if err != nil {
		return records, nil, spec.Fault("source.file.path", "%v", err)
	}
	if len(splits) > maxSplits {
		return records, nil, spec.Fault("source.file.split_size", "%d splits; want at most %d, and so a larger split_size", len(splits), maxSplits)
	}
	if err := claim(spec, splits, resumed); err != nil {
		return records, nil, err
	}
	// A split that has its results may still lack its dead letters. So a job with dead letters
	// reads every split again, and its files get the same names.
	if spec.Sink.File != nil && spec.DeadLetter == nil {
		records, err = readFiles(scope, s, splits, spec.Sink.File.Path, nil)
	} else {
		records, err = readFiles(scope, s, splits, "", slices.Sorted(maps.Values(sinks(spec))))
	}
	for i := range splits {
		path, _ := src.File(i)
		if n := len(files); n == 0 || files[n-1].Path != path {
			files = append(files, splitFile{int64(i), path})
		}
	}
	return records, files, err
}

// write writes records to the job's sink, or to that of its dead letters.
func (s shipped) write(scope beam.Scope, records beam.PCollection, letters bool) error {
	dir := s.Spec.Sink.File
	if letters {
		dir = s.Spec.DeadLetter.File
	}
	text, err := s.text()
	if err != nil {
		return err
	}
	var fn any = &kafkaFn{Job: text, Letters: letters}
	if dir != nil {
		fn = &filesFn{Dir: dir.Path, Whole: s.Spec.Source.File != nil}
	}
	if _, err := beam.TryParDo(scope, fn, records); err != nil {
		return fmt.Errorf("flink: the sink: %w", err)
	}
	return nil
}
