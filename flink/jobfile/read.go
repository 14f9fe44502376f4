package jobfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/coder"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/flink/internal/eventtime"
)

// split is a split of a source as an element of a collection.
type split struct {
	Index int64
	Data  []byte
	Start int64
}

// maxSplits bounds the list of splits, which is a part of the pipeline.
const maxSplits = 20_000

// The types have their own coders, so that Flink handles them as bytes. Flink's side reads some of
// the rows that Beam's Go SDK makes of structs differently. The coders are deterministic, because
// state is kept by element.
func encodeSplit(s split) ([]byte, error) { return json.Marshal(s) }

func decodeSplit(b []byte) (s split, err error) {
	err = json.Unmarshal(b, &s)
	return s, err
}

func init() {
	beam.RegisterType(reflect.TypeFor[split]())
	beam.RegisterFunction(encodeSplit)
	beam.RegisterFunction(decodeSplit)
	coder.RegisterDeterministicCoder(reflect.TypeFor[split](), encodeSplit, decodeSplit)
	register.DoFn2x0[[]byte, func(split)](&splitsFn{})
	register.Emitter1[split]()
	register.DoFn3x1[context.Context, split, func(beam.EventTime, flink.Record), error](&readFn{})
}

// readFiles reads the splits of a source that has an end, each as one element in one bundle. The
// results show what such a job has done: those of a split appear all at once, under the split's
// name, when its bundle ends. done is the folder of the results; a split that has its file there is
// not read again. If done is empty, all splits are read, and files of an earlier attempt in the
// folders again are removed first.
//
// So the job needs no checkpoints of Flink. They would have to wait until the last split is dealt
// out: the list of splits is the whole input, and Flink counts the operators that have received it
// as finished. (A splittable DoFn would not help: timers resume it, and an operator runs all its
// timers when its input ends.)
func readFiles(s beam.Scope, job shipped, splits []connector.Split, done string, again []string) (beam.PCollection, error) {
	first := &splitsFn{}
	for i, sp := range splits {
		first.Splits = append(first.Splits, split{Index: int64(i), Data: sp.Data, Start: sp.Start})
	}
	all, err := beam.TryParDo(s, first, beam.Impulse(s))
	if err != nil {
		return beam.PCollection{}, fmt.Errorf("flink: the source's splits: %w", err)
	}
	// Deal the splits out to the subtasks.
	dealt := beam.Reshuffle(s, all[0])
	text, err := job.text()
	if err != nil {
		return beam.PCollection{}, err
	}
	out, err := beam.TryParDo(s, &readFn{Job: text, Done: done, Again: again}, dealt)
	if err != nil {
		return beam.PCollection{}, fmt.Errorf("flink: the source: %w", err)
	}
	return out[0], nil
}

// splitsFn emits the splits.
type splitsFn struct{ Splits []split }

// ProcessElement is called once.
func (f *splitsFn) ProcessElement(_ []byte, emit func(split)) {
	for _, s := range f.Splits {
		emit(s)
	}
}

// most is the number of records that a reader is asked for at once.
const most = 128

// readFn reads splits.
type readFn struct {
	Job  string
	Done string
	// Again are the folders of results and dead letters from which a split's file is removed
	// before the split is read. A record that failed in an earlier attempt may succeed in this
	// one, or the reverse. Without the removal, a file of the earlier attempt would stay in a
	// folder into which this attempt writes nothing.
	//
	// If an attempt ends after the removal, the split is not done and is read again: by Flink's
	// restart, or by --resume, which reads all splits if there is no Done. A bundle of an
	// earlier attempt may still be at work. It makes nothing visible once its worker has lost
	// its TaskManager (FinishBundle), unless it stalled between that check and making its files
	// visible. Then each file is still whole and of one attempt, but the two files of a split
	// may be of different attempts.
	Again []string

	src  connector.Source[json.RawMessage]
	seen map[string]bool // files, by their paths
	recs []async.Record[json.RawMessage]
}

// Setup is called once for each instance.
func (f *readFn) Setup() error {
	job, err := arrived(f.Job)
	if err == nil {
		f.src, f.seen = job.source(), map[string]bool{}
	}
	return err
}

// ProcessElement reads one split.
func (f *readFn) ProcessElement(ctx context.Context, s split, emit func(beam.EventTime, flink.Record)) (err error) {
	if f.Done != "" {
		switch _, err := os.Stat(filepath.Join(f.Done, wholeName(s.Index))); {
		case err == nil:
			return nil
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("source: cannot tell whether split %d has results: %w", s.Index, err)
		}
	}
	// The file may have been replaced since the submission, or be another one on this machine.
	// This instance verifies it once. From then on Open checks that it is still the same.
	cut := connector.Split{Data: s.Data, Start: s.Start}
	of, err := originOf(cut)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if !f.seen[of.Path] {
		if err := f.src.Verify(ctx, []connector.Split{cut}, []int64{s.Start}); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		f.seen[of.Path] = true
	}
	for _, dir := range f.Again {
		if err := os.Remove(filepath.Join(dir, wholeName(s.Index))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("source: cannot remove a file of an earlier attempt at split %d: %w", s.Index, err)
		}
	}
	r, err := f.src.Open(ctx, cut, s.Start)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		recs, _, err := r.Read(ctx, f.recs[:0], most)
		f.recs = recs
		for i := range recs {
			emit(eventtime.Read(ctx, recs[i].Time), flink.Record{Value: recs[i].Value, Key: recs[i].Key, Split: s.Index, Position: recs[i].Position})
		}
		clear(f.recs)
		if err == io.EOF { // not an error that wraps it
			return nil
		}
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
	}
}
