package local

import (
	"log/slog"
	"os"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/inference"
	"github.com/tensorferry/tensorferry/job/kafkatopics"
)

// newLetters makes the sink of the dead letters, or returns nil if the job has none. Its files
// carry another job name than the results. So neither sink mistakes the pending files of the other
// for its own leftovers, even in one folder.
func newLetters(spec *job.Spec, g *kafka.Group, log *slog.Logger) (connector.Sink[Record], error) {
	switch l := spec.DeadLetter; {
	case l == nil:
		return nil, nil
	case l.Kafka != nil:
		return newKafkaSink(spec, l.Kafka, "dead_letter.kafka", kafkatopics.LetterEncoder(l.Kafka, whereIn(g)), g, log)
	default:
		return file.NewSink(file.SinkConfig[Record]{Dir: l.File.Path, Encode: file.RawLine, Job: spec.Name + "/" + LettersName, Consumed: l.File.Consumed, Private: true}), nil
	}
}

// LettersPlace returns the name of the place where failed records go, for messages.
func LettersPlace(spec *job.Spec) string {
	if k := spec.DeadLetter.Kafka; k != nil {
		return "the topic " + k.Topic
	}
	return spec.DeadLetter.File.Path
}

// checkFolders reports folders of the job that exist as files. It makes no folders.
func checkFolders(spec *job.Spec) (faults []error) {
	folder := func(key, path string) {
		if info, err := os.Stat(path); path != "" && err == nil && !info.IsDir() {
			faults = append(faults, spec.Fault(key, "%s is a file; want a folder", path))
		}
	}
	if f := spec.Sink.File; f != nil {
		folder("sink.file.path", f.Path)
	}
	if d := spec.DeadLetter; d != nil && d.File != nil {
		folder("dead_letter.file.path", d.File.Path)
	}
	folder("checkpoint.dir", spec.Checkpoint.Dir)
	return faults
}

// checkLetters reports whether the dead letters' folder is the sink's under another name.
func checkLetters(spec *job.Spec) error {
	if spec.DeadLetter == nil || spec.DeadLetter.File == nil || spec.Sink.File == nil {
		return nil
	}
	a, errA := os.Stat(spec.DeadLetter.File.Path)
	b, errB := os.Stat(spec.Sink.File.Path)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return spec.Fault("dead_letter.file.path", "want another folder than the sink's; this one is a link to %s", spec.Sink.File.Path)
	}
	return nil
}

// lettersOf returns how dead letters are written.
func lettersOf(spec *job.Spec, p parts) inference.Letters {
	l := inference.LettersOf(spec)
	if s, ok := p.source.(interface {
		Partition(split int) (topic string, id int32, ok bool)
	}); ok {
		l.Where = s.Partition
	}
	if s, ok := p.source.(interface {
		File(split int) (string, bool)
	}); ok {
		l.File = s.File
	}
	return l
}
