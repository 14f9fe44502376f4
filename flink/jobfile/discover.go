package jobfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/coder"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/kafka"
)

func init() {
	beam.RegisterType(reflect.TypeFor[found]())
	beam.RegisterFunction(encodeFound)
	beam.RegisterFunction(decodeFound)
	coder.RegisterDeterministicCoder(reflect.TypeFor[found](), encodeFound, decodeFound)
	register.DoFn4x2[context.Context, *sdf.LockRTracker, []byte, func(split), sdf.ProcessContinuation, error](&discoverFn{})
}

// readLive adds transforms that find the partitions of a source without an end, and read them.
func readLive(ctx context.Context, s beam.Scope, job shipped) (beam.PCollection, error) {
	text, err := job.text()
	if err != nil {
		return beam.PCollection{}, err
	}
	all, err := beam.TryParDo(s, &discoverFn{Job: text, First: job.first(ctx)}, beam.Impulse(s))
	if err != nil {
		return beam.PCollection{}, fmt.Errorf("flink: the source's partitions: %w", err)
	}
	out, err := beam.TryParDo(s, &liveFn{Job: text}, all[0])
	if err != nil {
		return beam.PCollection{}, fmt.Errorf("flink: the source: %w", err)
	}
	return out[0], nil
}

// first returns the present partitions with their first positions, if these depend on when the
// brokers are asked. They are asked at the submission, because only the pipeline survives a failure
// before the first checkpoint; if the second attempt asked again, it would skip what the first had
// read. first returns nil if the time does not matter, or if the brokers cannot be asked from here:
// this machine need not have a route to them, or their certificates and passwords. Then the workers
// ask at every start without a checkpoint.
func (s shipped) first(ctx context.Context) []split {
	switch s.Spec.Source.Kafka.Start {
	case "latest", "time":
	default:
		return nil
	}
	src, err := s.live()
	var all []connector.Split
	if err == nil {
		all, err = src.Splits(ctx)
	}
	var first []split
	if err == nil {
		first, err = numbered(all, nil)
	}
	if err != nil {
		slog.Warn("the start position cannot be read from the brokers on this machine, so the workers read it; after a failure before the first checkpoint they read it again, "+
			"and records that arrived in between are skipped", "start", s.Spec.Source.Kafka.Start, "error", err)
		return nil
	}
	return first
}

// found is a restriction: the partitions that were found so far. The rest of the search needs them.
// So they are in Flink's checkpoints, and a restored job reads partitions that appeared meanwhile
// from their first record.
type found struct {
	Splits []split
	// Over says that this part of the search has ended.
	Over bool
}

func encodeFound(f found) ([]byte, error) { return json.Marshal(f) }

func decodeFound(b []byte) (f found, err error) {
	err = json.Unmarshal(b, &f)
	return f, err
}

// discoverFn looks for partitions repeatedly. It is a splittable DoFn with one element.
type discoverFn struct {
	Job string
	// First are the partitions that are found first. Empty: those that exist at that time.
	First []split

	every time.Duration
	src   *kafka.Source[json.RawMessage]
}

// Setup is called once for each instance.
func (f *discoverFn) Setup() error {
	job, err := arrived(f.Job)
	if err == nil {
		f.every = job.discover()
		f.src, err = job.live()
	}
	return err
}

// CreateInitialRestriction returns a search that has found nothing.
func (f *discoverFn) CreateInitialRestriction([]byte) found { return found{} }

// SplitRestriction does not split.
func (f *discoverFn) SplitRestriction(_ []byte, r found) []found { return []found{r} }

// RestrictionSize is the same for all.
func (f *discoverFn) RestrictionSize([]byte, found) float64 { return 1 }

// CreateTracker returns a tracker that keeps the partitions found.
func (f *discoverFn) CreateTracker(r found) *sdf.LockRTracker {
	return sdf.NewLockRTracker(&search{now: r})
}

// TruncateRestriction ends the search when the job is drained.
func (f *discoverFn) TruncateRestriction(rt *sdf.LockRTracker, _ []byte) found {
	r := rt.GetRestriction().(found)
	r.Over = true
	return r
}

// ProcessElement looks for partitions once.
func (f *discoverFn) ProcessElement(ctx context.Context, rt *sdf.LockRTracker, _ []byte, emit func(split)) (sdf.ProcessContinuation, error) {
	known := rt.GetRestriction().(found).Splits
	fresh, err := f.look(ctx, known)
	if err != nil && len(known) > 0 && ctx.Err() == nil {
		// Known partitions are read all the same, and their readers report what is wrong.
		slog.Warn("looking for new partitions failed; trying again", "error", err)
		return sdf.ResumeProcessingIn(f.every), nil
	}
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if !rt.TryClaim(fresh) {
		return nil, errors.New("source: the runner has split the search for partitions, which must not be split")
	}
	for _, s := range fresh {
		emit(s)
	}
	return sdf.ResumeProcessingIn(f.every), nil
}

// look returns the partitions that are not known yet.
func (f *discoverFn) look(ctx context.Context, known []split) (fresh []split, err error) {
	if len(known) == 0 && len(f.First) > 0 {
		return f.First, nil
	}
	var all []connector.Split
	for _, k := range known {
		all = append(all, connector.Split{Data: k.Data, Start: k.Start})
	}
	if len(known) == 0 {
		all, err = f.src.Splits(ctx)
	} else {
		all, err = f.src.Appeared(ctx, all)
	}
	if err != nil {
		return nil, err
	}
	return numbered(all, known)
}

// numbered gives splits their numbers. known are those that were found before.
func numbered(all []connector.Split, known []split) (fresh []split, err error) {
	for _, s := range all {
		one := split{Data: s.Data, Start: s.Start}
		if one.Index, err = number(one, known, fresh); err != nil {
			return nil, err
		}
		fresh = append(fresh, one)
	}
	return fresh, nil
}

// search is the tracker of discoverFn. A claim is a list of further partitions.
type search struct {
	now found
	err error
}

// TryClaim adds partitions that were found.
func (s *search) TryClaim(pos any) bool {
	if s.now.Over {
		return false
	}
	s.now.Splits = append(s.now.Splits[:len(s.now.Splits):len(s.now.Splits)], pos.([]split)...)
	return true
}

// GetError returns nil, since nothing here can fail.
func (s *search) GetError() error { return s.err }

// TrySplit ends this part of the search; the rest of it knows what was found.
func (s *search) TrySplit(fraction float64) (primary, residual any, err error) {
	if fraction > 0 || s.now.Over {
		return s.now, nil, nil
	}
	rest := s.now
	s.now.Over = true
	return s.now, rest, nil
}

// GetProgress says that there is always something left.
func (s *search) GetProgress() (done, remaining float64) { return float64(len(s.now.Splits)), 1 }

// IsDone reports whether this part of the search has ended.
func (s *search) IsDone() bool { return s.now.Over }

// GetRestriction returns the partitions found.
func (s *search) GetRestriction() any { return s.now }

// IsBounded says that there is no end.
func (s *search) IsBounded() bool { return false }
