package jobfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/flink/internal/eventtime"
	"github.com/tensorferry/tensorferry/flink/internal/idle"
)

func init() {
	register.DoFn4x2[context.Context, *sdf.LockRTracker, split, func(beam.EventTime, flink.Record), sdf.ProcessContinuation, error](&liveFn{})
}

// slice is how long a partition is read before its reader asks to be resumed with the next bundle.
// The bundle waits that long, and so do a checkpoint and the subtask's other partitions.
const slice = 200 * time.Millisecond

// lull is how long a reader waits for a record before it gives way. It is resumed with the next
// bundle, because the runner's delays are whole seconds, which is too long. The first time, a
// reader waits for a slice: a new client has to connect first. It would otherwise read nothing if
// it is always closed before its partition's next turn.
const lull = 20 * time.Millisecond

// liveFn reads partitions, which have no end. It is a splittable DoFn: an element is a partition,
// and its restriction is the part that has not been read. So the offsets are in Flink's
// checkpoints.
type liveFn struct {
	Job string

	src *kafka.Source[json.RawMessage]
}

// Setup is called once for each instance.
func (f *liveFn) Setup() error {
	job, err := arrived(f.Job)
	if err == nil {
		f.src, err = job.live()
	}
	return err
}

// end is greater than every position. The tracker adds one to it.
const end = math.MaxInt64 - 1

// CreateInitialRestriction returns the whole partition.
func (f *liveFn) CreateInitialRestriction(s split) offsetrange.Restriction {
	return offsetrange.Restriction{Start: s.Start, End: end}
}

// SplitRestriction does not split, because a partition is one sequence.
func (f *liveFn) SplitRestriction(_ split, r offsetrange.Restriction) []offsetrange.Restriction {
	return []offsetrange.Restriction{r}
}

// RestrictionSize is the same for all, since the size is unknown.
func (f *liveFn) RestrictionSize(split, offsetrange.Restriction) float64 { return 1 }

// CreateTracker returns a tracker that keeps the position.
func (f *liveFn) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(&tracker{offsetrange.NewTracker(r)})
}

// TruncateRestriction leaves nothing to read when the job is drained.
func (f *liveFn) TruncateRestriction(rt *sdf.LockRTracker, _ split) offsetrange.Restriction {
	r := rt.GetRestriction().(offsetrange.Restriction)
	return offsetrange.Restriction{Start: r.Start, End: r.Start}
}

// ProcessElement reads for one slice.
func (f *liveFn) ProcessElement(ctx context.Context, rt *sdf.LockRTracker, s split, emit func(beam.EventTime, flink.Record)) (sdf.ProcessContinuation, error) {
	at := rt.GetRestriction().(offsetrange.Restriction).Start
	r, err := f.reader(ctx, s, at)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if err := r.Do(func() error { return r.slice(ctx, s.Index, rt, emit) }); err != nil {
		readers.Drop(r)
		return nil, fmt.Errorf("source: %w", err)
	}
	readers.Give(r)
	return sdf.ResumeProcessingIn(0), nil
}

// tracker is the tracker of an offset range that is not divided. The last claim is the position
// before the next one to read.
type tracker struct{ *offsetrange.Tracker }

// TrySplit splits off everything that was not claimed, for a reader that asks to be resumed. It
// does not split otherwise.
func (t *tracker) TrySplit(fraction float64) (primary, residual any, err error) {
	if fraction > 0 {
		return t.GetRestriction(), nil, nil
	}
	return t.Tracker.TrySplit(0)
}

// IsBounded says that there is no end.
func (t *tracker) IsBounded() bool { return false }

var readers idle.Pool[*reader]

// reader is an open reader of a partition. It is kept between slices, so that it can read ahead.
type reader struct {
	idle.Work
	warm bool // it has read once
	next int64
	r    connector.UnboundedReader[json.RawMessage]
	recs []async.Record[json.RawMessage]
}

// reader returns a reader of a split that stands at a position.
func (f *liveFn) reader(ctx context.Context, s split, at int64) (*reader, error) {
	open := func(ctx context.Context, _ int) (*reader, error) {
		// Notice a deleted topic, or deleted records, before anything is read.
		now, next, err := f.src.Locate(ctx, []connector.Split{{Data: s.Data, Start: s.Start}}, []int64{at})
		if err != nil {
			return nil, err
		}
		r, err := f.src.OpenAll(ctx, []connector.AssignedSplit{{Split: now[0], Position: next[0]}})
		if err != nil {
			return nil, err
		}
		return &reader{Work: idle.Since(time.Now()), r: r, next: at}, nil
	}
	key := fmt.Sprintf("%d %s %s", s.Index, s.Data, f.Job)
	for {
		r, err := readers.Take(ctx, key, open)
		if err != nil || r.next == at {
			return r, err
		}
		readers.Drop(r) // it is of an earlier attempt, and has read on
	}
}

// slice reads until the time of a slice is over, or until no record comes for a while.
func (r *reader) slice(ctx context.Context, index int64, rt *sdf.LockRTracker, emit func(beam.EventTime, flink.Record)) error {
	for over := time.Now().Add(slice); time.Now().Before(over); {
		patience := lull
		if !r.warm {
			patience = slice
		}
		wait, cancel := context.WithTimeout(ctx, patience)
		_, recs, next, err := r.r.Read(wait, r.recs[:0], most)
		lulled := err != nil && err == wait.Err() // not a timeout of the brokers
		cancel()
		r.recs, r.warm = recs, true
		switch {
		case lulled && ctx.Err() == nil:
			return nil
		case err != nil:
			return err
		case next <= r.next && len(recs) > 0:
			return errors.New("the partition now ends before records that were read, and new ones follow there: its topic was created again, or brokers have lost records; " +
				"on Flink a partition cannot be read again from its beginning, so start a new job")
		case !rt.TryClaim(next - 1):
			return errors.New("the runner has split a partition, which must not be split")
		}
		for i := range recs {
			emit(eventtime.Read(ctx, recs[i].Time), flink.Record{Value: recs[i].Value, Key: recs[i].Key, Split: index, Position: recs[i].Position})
		}
		clear(r.recs)
		r.next = next
	}
	return nil
}

// Close implements idle.Thing.
func (r *reader) Close() error { return r.End(r.r.Close) }
