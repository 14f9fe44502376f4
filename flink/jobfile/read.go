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

// The coders are ours, so that Flink's side sees bytes alone: of Beam's rows, which Go makes of
// structs, it reads some otherwise. They are deterministic, since what is read is kept by its
// element.
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

// readFiles reads the splits of a source that has an end, each as one element in one bundle. What
// such a job has done is in its results: the results of a split appear at once, under a name of
// their own, when its bundle ends; done says in which folder they are, and a split that has them is
// not read again (empty: all are read, and what an earlier attempt has left of them in the folders
// again is removed first). So it needs no checkpoint of Flink, which would wait until the last
// split is dealt out: the list of splits is the whole input of the job, and Flink takes its
// operators for finished when they have it. (A splittable DoFn is resumed by timers, and of these
// an operator works off all it has when its input ends.)
func readFiles(s beam.Scope, job shipped, splits []connector.Split, done string, again []string) (beam.PCollection, error) {
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

// most is how many records a reader is asked for at once.
const most = 128

// readFn reads splits.
type readFn struct {
	Job  string
	Done string
	// Again are the folders of results and dead letters from which a split's file is removed before
	// the split is read. A record that failed in an earlier attempt may succeed in this one, or the
	// other way round, and of an attempt that makes no file of a folder the file of the earlier one
	// would stay.
	//
	// An attempt that ends in between leaves a split that is not done, and it is read again: by
	// Flink's restart, or by --resume, which reads all of them where there is no Done. A bundle of
	// an earlier attempt that is still at work makes nothing visible once its worker has lost its
	// TaskManager (FinishBundle). Only one that stood still between looking for that and making its
	// files visible can put them beside those of this attempt. Each file is then whole, and one
	// attempt's; of the two files of a split, one may be of another attempt than the other.
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

// ProcessElement reads one.
func (f *readFn) ProcessElement(ctx context.Context, s split, emit func(beam.EventTime, flink.Record)) (err error) {
	if f.Done != "" {
		switch _, err := os.Stat(filepath.Join(f.Done, wholeName(s.Index))); {
		case err == nil:
			return nil
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("source: are there results of split %d: %w", s.Index, err)
		}
	}
	// What the job was submitted with may have been replaced since, or be another file on this
	// machine. Once this instance has seen it, it stays the one that it was then, which Open
	// checks.
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
			return fmt.Errorf("source: what an earlier attempt at split %d has left: %w", s.Index, err)
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
		if err == io.EOF { // and nothing that wraps it
			return nil
		}
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
	}
}
