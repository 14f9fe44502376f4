package local

import (
	"context"
	"log/slog"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/embedded"
	"github.com/tensorferry/tensorferry/job/inference"
	"github.com/tensorferry/tensorferry/job/kafkatopics"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
	"github.com/tensorferry/tensorferry/trace"
)

// parts are the components of a job, checked and ready to be put together.
type parts struct {
	source  connector.Source[Record]
	sink    connector.Sink[Record]
	letters connector.Sink[Record] // nil if the job has no dead letters
	group   *kafka.Group           // nil unless the job is from Kafka to Kafka
	// tracer is nil unless the job has a trace section and runs.
	tracer   trace.Tracer
	operator async.Config
	restart  restart.Config
}

// The names of the job's operators, in progress, metrics and checkpoints. The state in checkpoints
// is found by these names, so they never change.
const (
	SourceName = "source"
	InferName  = "infer"
	SinkName   = "sink"
	// LettersName is the sink of the failed records, and LetterName the operator that makes lines
	// of them.
	LettersName = "dead-letters"
	LetterName  = "dead-letter"

	keyName = InferName + "-key" // as stream.KeyedWait names it
)

// newParts makes the parts, and reports all faults that only they can find. Each is a job.Fault.
func newParts(spec *job.Spec, o Options) (p parts, faults []error) {
	log := o.Logger
	check := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	var err error
	if spec.KafkaToKafka() {
		if p.group, err = newGroup(spec, log); err != nil {
			return p, append(faults, err)
		}
	}
	p.source, err = newSource(spec, o, p.group)
	check(err)
	p.sink, err = newSink(spec, o, p.group)
	check(err)
	p.letters, err = newLetters(spec, p.group, log)
	check(err)
	check(checkLetters(spec))
	faults = append(faults, checkFolders(spec)...)
	p.operator, err = inference.OperatorConfig(spec)
	check(err)
	if spec.Trace != nil {
		_, err := tracesOf(spec, o.Version, log)
		check(err)
	}
	p.restart = restartConfig(spec)
	if _, err := p.restart.Resolve(interval(spec) > 0); err != nil {
		check(spec.Fault("restart", "%v", err))
	}
	if err := inference.CheckEndpoint(spec); err != nil {
		check(err)
	} else {
		endpoint := spec.Infer.Endpoint
		if endpoint == "" {
			endpoint = "unix:///chosen/at/start" // only the other fields are checked
		}
		_, err := inference.NewFunction(spec, endpoint, nil)
		check(err)
	}
	faults = append(faults, embedded.Check(spec)...)
	return p, faults
}

func newSource(spec *job.Spec, o Options, g *kafka.Group) (connector.Source[Record], error) {
	switch {
	case g != nil:
		return kafka.GroupSource(g, kafkatopics.Decoder(spec.Source.Kafka)), nil
	case spec.Source.Kafka != nil:
		s, err := kafkatopics.NewSource(spec, o.Logger)
		if err != nil {
			return nil, err // not a typed nil
		}
		return s, nil
	}
	// The policy for bad records also covers lines that are not JSON. If such a line fails the
	// job, the source checks it, because only the source knows the line's number. Otherwise the
	// codec finds it.
	action := spec.Infer.OnError[async.BadRecord.String()].Action
	decode := file.Raw
	if action != "" && action != job.ActionFail {
		decode = file.Unchecked
	}
	if in := spec.Source.Stdin; in != nil {
		return file.NewStdin(file.StdinConfig[Record]{Input: o.Stdin, Decode: decode, MaxLine: in.MaxLine}), nil
	}
	f := spec.Source.File
	return file.NewSource(file.SourceConfig[Record]{Paths: f.Paths, Decode: decode, SplitSize: f.SplitSize, MaxLine: f.MaxLine, Logger: o.Logger}), nil
}

// checkSource reports what is wrong with the source's files. Making splits reads a little of each.
func checkSource(ctx context.Context, spec *job.Spec, source connector.Source[Record]) error {
	if spec.Source.File == nil {
		return nil
	}
	if _, err := source.Splits(ctx); err != nil {
		return spec.Fault("source.file.path", "%v", err)
	}
	return nil
}

func newSink(spec *job.Spec, o Options, g *kafka.Group) (connector.Sink[Record], error) {
	switch {
	case spec.Sink.Stdout:
		return file.NewStdout(file.StdoutConfig[Record]{Output: o.Stdout, Encode: file.RawLine}), nil
	case spec.Sink.Kafka != nil:
		return newKafkaSink(spec, spec.Sink.Kafka, "sink.kafka", kafkatopics.Encoder(spec.Sink.Kafka, whereIn(g)), g, o.Logger)
	}
	return file.NewSink(file.SinkConfig[Record]{Dir: spec.Sink.File.Path, Encode: file.RawLine, Job: spec.Name, Consumed: spec.Sink.File.Consumed}), nil
}

// interval is the time between checkpoints. Results on standard output, and all results of a Kafka
// source, wait for a checkpoint, so such a job always has an interval. Without one, a pipe would
// get nothing until the end of the input, and a topic has no end.
func interval(spec *job.Spec) time.Duration {
	if spec.Checkpoint.Interval == 0 && (spec.Sink.Stdout || spec.Source.Kafka != nil) {
		return time.Second
	}
	return spec.Checkpoint.Interval
}

// restartConfig is the restart section. Standard input can be read only once,
// so a job that reads it is never restarted.
func restartConfig(spec *job.Spec) restart.Config {
	r := &spec.Restart
	cfg := restart.Config{
		Strategy: r.Strategy, Attempts: r.Attempts, Delay: r.Delay, MaxFailures: r.MaxFailures, Interval: r.Interval,
		InitialDelay: r.InitialDelay, MaxDelay: r.MaxDelay, Multiplier: r.Multiplier, ResetAfter: r.ResetAfter,
	}
	switch {
	case r.Jitter == nil:
	case *r.Jitter == 0:
		cfg.Jitter = restart.Off
	default:
		cfg.Jitter = *r.Jitter
	}
	if spec.Source.Stdin != nil {
		cfg.Strategy = restart.None
	}
	return cfg
}

// observer logs what happens to a run as a whole. The runtime itself logs failures.
type observer struct{ log *slog.Logger }

// Observe implements stream.Observer.
func (o observer) Observe(e stream.Event) {
	switch e := e.(type) {
	case stream.Started:
		o.log.Info("running", "attempt", e.Attempt, "from_checkpoint", e.Restored)
	case stream.CheckpointCompleted:
		o.log.Debug("checkpoint completed", "checkpoint", e.ID, "took", e.Duration, "final", e.Final)
	}
}

// assemble builds the stream. run and store say how it begins. store is nil for a job that keeps no
// checkpoints.
func (j *Job) assemble(fn *inference.Function, run *checkpoint.Run, store *checkpoint.Store) *stream.Job {
	spec, p := j.spec, j.parts
	c := &spec.Checkpoint
	cfg := stream.Config{
		Parallelism: spec.Parallelism,
		Checkpoint: stream.CheckpointConfig{
			Interval: interval(spec), Timeout: c.Timeout, MinPause: c.MinPause, TolerableFailures: c.TolerableFailures,
		},
		Restart: p.restart, Logger: j.log, Tracer: p.tracer, Observer: append(observers{observer{j.log}, &j.ran}, j.opts.Observers...),
		RunID: run.ID, Identity: identity(spec), Resume: run.Restore, Previous: run.Previous,
		Attempt: run.Attempt, LastID: run.LastID,
	}
	switch {
	case p.group != nil:
		cfg.Checkpoint.Store = p.group
	case store != nil:
		cfg.Checkpoint.Store = store
	}
	job := stream.New(spec.Name, cfg)
	records := stream.From(job, p.source, sourceOptions(spec)...)
	answers, failed := infer(records, spec, fn, p.operator)
	stream.To(answers, p.sink, stream.Name(SinkName))
	if failed != nil {
		stream.To(stream.Map(failed, lettersOf(spec, p).Line, stream.Name(LetterName)), p.letters, stream.Name(LettersName))
	}
	return job
}

// watermarkIdle is the time without a record after which a source's subtask no longer holds back
// the watermark.
const watermarkIdle = time.Minute

func sourceOptions(spec *job.Spec) []stream.SourceOption {
	opts := []stream.SourceOption{stream.Name(SourceName)}
	if k := spec.Source.Kafka; k != nil && k.Watermark > 0 {
		opts = append(opts, stream.BoundedOutOfOrderness(k.Watermark), stream.IdleAfter(watermarkIdle))
	}
	return opts
}

// infer adds the operator that calls the model. failed is nil if the job has no dead letters.
func infer(records *stream.Stream[Record], spec *job.Spec, fn *inference.Function, cfg async.Config) (answers *stream.Stream[Record], failed *stream.Stream[async.Failed[Record]]) {
	if cfg.Order == async.Keyed {
		records = stream.KeyBy(records, inference.KeyOf(&spec.Infer), stream.Name(keyName))
	}
	if spec.DeadLetter != nil {
		return stream.AsyncWithDeadLetters(records, fn, cfg, stream.Name(InferName))
	}
	return stream.Async(records, fn, cfg, stream.Name(InferName)), nil
}
