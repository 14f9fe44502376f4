package jobfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/flink/internal/idle"
	"github.com/tensorferry/tensorferry/stream"
)

// split is a split of a source as an element of a collection.
type split struct {
	Index int64
	Data  []byte
	Start int64
}

func init() {
	register.DoFn2x0[[]byte, func(split)](&splitsFn{})
	register.Emitter1[split]()
	register.DoFn4x2[context.Context, *sdf.LockRTracker, split, func(beam.EventTime, flink.Record), sdf.ProcessContinuation, error](&readFn{})
}

// read reads the splits of a job's source: a splittable DoFn, whose elements are the splits and whose restrictions are what is left of each. So the
// positions are in Flink's checkpoints.
func read(s beam.Scope, job shipped, splits []stream.Split) (beam.PCollection, error) {
	first := &splitsFn{}
	for i, sp := range splits {
		first.Splits = append(first.Splits, split{int64(i), sp.Data, sp.Start})
	}
	all, err := beam.TryParDo(s, first, beam.Impulse(s))
	if err != nil {
		return beam.PCollection{}, fmt.Errorf("flink: the source's splits: %w", err)
	}
	out, err := beam.TryParDo(s, &readFn{Job: job}, all[0])
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

// slice is how long a split is read before its reader asks to be resumed. A checkpoint, and what else
// the subtask has to read, waits for that long.
const slice = 250 * time.Millisecond

// most is how many records a reader is asked for at once.
const most = 512

// readFn reads splits, a slice at a time.
type readFn struct{ Job shipped }

// CreateInitialRestriction is a whole split; how far it goes only its reader knows.
func (f *readFn) CreateInitialRestriction(s split) offsetrange.Restriction {
	return offsetrange.Restriction{Start: s.Start, End: end}
}

// end is behind every position. The tracker adds one to it.
const end = math.MaxInt64 - 1

// SplitRestriction does not: splits were cut already.
func (f *readFn) SplitRestriction(_ split, r offsetrange.Restriction) []offsetrange.Restriction {
	return []offsetrange.Restriction{r}
}

// RestrictionSize is the same for all: nobody knows.
func (f *readFn) RestrictionSize(split, offsetrange.Restriction) float64 { return 1 }

// CreateTracker returns what keeps the position.
func (f *readFn) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(&tracker{Tracker: offsetrange.NewTracker(r)})
}

// ProcessElement reads a slice.
func (f *readFn) ProcessElement(ctx context.Context, rt *sdf.LockRTracker, s split, emit func(beam.EventTime, flink.Record)) (sdf.ProcessContinuation, error) {
	at := rt.GetRestriction().(offsetrange.Restriction).Start
	r, err := f.reader(ctx, s, at)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	more, err := r.slice(ctx, s.Index, rt, emit)
	if err != nil {
		readers.Drop(r)
		return nil, fmt.Errorf("source: %w", err)
	}
	if !more {
		readers.Drop(r)
		rt.TryClaim(int64(end)) // nothing is left
		return sdf.StopProcessing(), nil
	}
	readers.Give(r)
	return sdf.ResumeProcessingIn(0), nil
}

// tracker is that of an offset range which is not divided: a split is one sequence. What is claimed last is the position before the next one to read.
type tracker struct{ *offsetrange.Tracker }

// TrySplit gives a checkpoint's share away, and nothing else.
func (t *tracker) TrySplit(fraction float64) (primary, residual any, err error) {
	if fraction > 0 {
		return t.GetRestriction(), nil, nil
	}
	return t.Tracker.TrySplit(0)
}

var readers idle.Pool[*reader]

// reader is an open reader of a split, kept between slices.
type reader struct {
	mu     sync.Mutex
	used   time.Time
	closed bool
	next   int64
	r      stream.Reader[json.RawMessage]
	recs   []stream.Record[json.RawMessage]
}

// reader returns a reader of a split that stands at a position.
func (f *readFn) reader(ctx context.Context, s split, at int64) (*reader, error) {
	text, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%d %s %s", s.Index, s.Data, text)
	open := func(ctx context.Context, _ int) (*reader, error) {
		src, err := f.Job.source()
		if err != nil {
			return nil, err
		}
		r, err := src.Open(ctx, stream.Split{Data: s.Data, Start: s.Start}, at)
		if err != nil {
			return nil, err
		}
		return &reader{r: r, next: at, used: time.Now()}, nil
	}
	for {
		r, err := readers.Take(ctx, key, open)
		if err != nil || r.next == at {
			return r, err
		}
		readers.Drop(r) // of an attempt that read on
	}
}

// slice reads for a while. more is false at the end of the split.
func (r *reader) slice(ctx context.Context, index int64, rt *sdf.LockRTracker, emit func(beam.EventTime, flink.Record)) (more bool, err error) {
	r.mu.Lock()
	defer func() {
		r.used = time.Now()
		r.mu.Unlock()
	}()
	for over := time.Now().Add(slice); time.Now().Before(over); {
		if r.closed {
			return false, idle.ErrAbandoned
		}
		recs, next, err := r.r.Read(ctx, r.recs[:0], most)
		r.recs = recs
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if len(recs) > 0 && !rt.TryClaim(next-1) {
			return false, errors.New("the runner has given a part of a split away, which it must not")
		}
		for i := range recs {
			t := mtime.MinTimestamp
			if recs[i].Time != async.NoTime {
				t = mtime.Time(recs[i].Time)
			}
			emit(t, flink.Record{Value: recs[i].Value, Key: recs[i].Key, Split: index, Position: recs[i].Position})
		}
		clear(r.recs)
		if err != nil {
			return false, nil
		}
		r.next = next
	}
	return true, nil
}

// Close implements idle.Thing.
func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.r.Close()
}

// Abandoned implements idle.Thing.
func (r *reader) Abandoned(since time.Time) bool {
	if !r.mu.TryLock() {
		return false
	}
	defer r.mu.Unlock()
	return r.used.Before(since)
}
