package stream

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// shifty is a source that cannot say at once which splits it has: its first calls of Assign fail,
// or its first of Changed, which it answers a second after each Assign.
type shifty struct {
	connector.Source[int]
	assigns, changes []error // of the calls that fail
}

func next(errs *[]error) (err error) {
	if len(*errs) > 0 {
		err, *errs = (*errs)[0], (*errs)[1:]
	}
	return err
}

func (s *shifty) Assign(_ context.Context, splits []connector.Split, from []int64) ([]connector.Split, []int64, error) {
	return splits, from, next(&s.assigns)
}

func (s *shifty) Changed(ctx context.Context) error {
	if len(s.changes) > 0 {
		time.Sleep(time.Second)
		return next(&s.changes)
	}
	<-ctx.Done()
	return ctx.Err()
}

type gone struct{}

func (gone) Error() string          { return "gone for good" }
func (gone) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// TestRebalancingSourceThatFails: Assign and Changed fail before anything has run, and the restart
// strategy applies all the same.
func TestRebalancingSourceThatFails(t *testing.T) {
	away, final := errors.New("no broker can be reached"), gone{}
	for _, c := range []struct {
		name             string
		assigns, changes []error
		restarts         int
		ends             error
	}{
		{"assign", []error{away, away}, nil, 2, nil},
		{"assign too often", []error{away, away, away, away}, nil, 3, away},
		{"assign, for good", []error{away, final}, nil, 1, final},
		{"changed", nil, []error{away, away}, 2, nil},
		{"both", []error{nil, away}, []error{away}, 2, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := New("shifty", Config{Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 3}})
				// The second subtask is open after Changed has failed twice.
				late := lateDoor{async.Func(func(_ context.Context, v int) (int, error) { return v, nil }, 1), 3 * time.Second, nil}
				s := &shifty{FromSlice(numbers(100)), c.assigns, c.changes}
				out := Collect(OrderedWait(Rebalance(From[int](j, s), 2), async.Function[int, int](late), async.Config{}))
				r := j.Start(t.Context())
				if err := r.Wait(); !errors.Is(err, c.ends) || (err == nil) != (c.ends == nil) {
					t.Errorf("the job ended with %v; want %v", err, c.ends)
				}
				got := out.Results()
				slices.Sort(got)
				if p := r.Progress(); p.Restarts != c.restarts || c.ends == nil && !slices.Equal(got, numbers(100)) {
					t.Errorf("%d restarts, want %d; results %v", p.Restarts, c.restarts, got)
				}
			})
		})
	}
}
