package jobfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/stream"
)

// split is a split of a source as an element of a collection.
type split struct {
	Index int64
	Data  []byte
	Start int64
	// Pad makes it as large as a buffer of Flink's network. A channel is full when its buffers are, and a savepoint waits for all that
	// is in the channels: of splits without it that would be thousands.
	Pad []byte
}

// padding is the size of a network buffer of Flink.
const padding = 32 << 10

// maxSplits bounds the list of splits, which is a part of the pipeline.
const maxSplits = 20_000

func init() {
	register.DoFn2x0[[]byte, func(split)](&splitsFn{})
	register.Emitter1[split]()
	register.DoFn3x1[context.Context, split, func(beam.EventTime, flink.Record), error](&readFn{})
}

// read reads the splits of a source that has an end. Each split is an element, which waits in Flink's own buffers and channels until a subtask has
// done those before it, and is in a checkpoint as such. So a split is read in one bundle, and a checkpoint waits for those that are being read.
//
// A splittable DoFn would be resumed by timers. Flink's operators have to work off all that they have of those when their input ends, before they take
// part in a checkpoint again; and this input, which is the list of splits, ends at once.
//
// Checkpoints pass the splits in the channels (submit.Options.Bounded). Savepoints cannot, so they wait for them.
func read(s beam.Scope, job shipped, splits []stream.Split) (beam.PCollection, error) {
	if len(splits) > maxSplits {
		return beam.PCollection{}, job.Spec.Fault("source.file.split_size", "%d splits; want at most %d, so a larger size", len(splits), maxSplits)
	}
	first := &splitsFn{}
	for i, sp := range splits {
		first.Splits = append(first.Splits, split{Index: int64(i), Data: sp.Data, Start: sp.Start})
	}
	all, err := beam.TryParDo(s, first, beam.Impulse(s))
	if err != nil {
		return beam.PCollection{}, fmt.Errorf("flink: the source's splits: %w", err)
	}
	// In turn to the subtasks.
	dealt := beam.Reshuffle(s, all[0])
	out, err := beam.TryParDo(s, &readFn{Job: job}, dealt)
	if err != nil {
		return beam.PCollection{}, fmt.Errorf("flink: the source: %w", err)
	}
	return out[0], nil
}

// splitsFn emits the splits.
type splitsFn struct{ Splits []split }

// ProcessElement is called once.
func (f *splitsFn) ProcessElement(_ []byte, emit func(split)) {
	pad := make([]byte, padding)
	for _, s := range f.Splits {
		s.Pad = pad
		emit(s)
	}
}

// most is how many records a reader is asked for at once.
const most = 512

// readFn reads splits.
type readFn struct {
	Job shipped

	recs []stream.Record[json.RawMessage]
}

// ProcessElement reads one.
func (f *readFn) ProcessElement(ctx context.Context, s split, emit func(beam.EventTime, flink.Record)) (err error) {
	src, err := f.Job.source()
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	r, err := src.Open(ctx, stream.Split{Data: s.Data, Start: s.Start}, s.Start)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		recs, _, err := r.Read(ctx, f.recs[:0], most)
		f.recs = recs
		for i := range recs {
			emit(eventTime(recs[i].Time), flink.Record{Value: recs[i].Value, Key: recs[i].Key, Split: s.Index, Position: recs[i].Position})
		}
		clear(f.recs)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
	}
}

func eventTime(t stream.EventTime) beam.EventTime {
	if t == async.NoTime {
		return mtime.MinTimestamp
	}
	return mtime.Time(t)
}
