package stream

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// checked is a sink whose committer checks what was published.
type checked struct {
	diskSink
	check func(state string) error
}

func (s *checked) Committer(ctx context.Context) (connector.Committer, error) {
	c, err := s.diskSink.Committer(ctx)
	return checkedCommitter{c, s}, err
}

type checkedCommitter struct {
	connector.Committer
	s *checked
}

func (c checkedCommitter) Check(_ context.Context, state []byte) error {
	return c.s.check(string(state))
}

// TestWhatWasPublishedIsChecked before a run goes on, with the state that it goes on from. Lost
// results end the run. If the check cannot be finished for now, it is repeated.
func TestWhatWasPublishedIsChecked(t *testing.T) {
	lost := simFailure{async.Verdict{Class: async.Permanent}}
	for _, c := range []struct {
		name   string
		checks []error
		panics bool
		want   string // "": the job ends well
	}{
		{"whole", []error{nil}, false, ""},
		{"lost", []error{lost}, false, "cannot restart: out: "},
		{"not known for now", []error{errors.New("busy"), nil}, false, ""},
		{"a panic", nil, true, "Check of out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var states []string
				s := &checked{diskSink: diskSink{newDisk()}}
				s.check = func(state string) error {
					if c.panics {
						panic("sprung")
					}
					states = append(states, state)
					return c.checks[len(states)-1]
				}
				f := &flaky{left: map[int]int{150: 1}, class: async.Backend}
				j := New("checked", Config{
					Checkpoint: CheckpointConfig{Interval: 10 * time.Millisecond, Store: s.disk},
					Restart:    restart.Config{Strategy: restart.FixedDelay, Attempts: 3},
				})
				To(OrderedWait(From(j, FromSlice(numbers(200))), async.Func(f.call, 4), async.Config{Capacity: 8, Retry: async.Retry{Max: async.Off}}), connector.Sink[int](s), Name("out"))
				err := j.Run(t.Context())
				if c.want != "" {
					if err == nil || !strings.Contains(err.Error(), c.want) {
						t.Errorf("the job ended with %v", err)
					}
					return
				}
				if err != nil || len(s.values()) != 200 || len(states) != len(c.checks) || states[0] == "" {
					t.Errorf("%d results, checked at %q, %v", len(s.values()), states, err)
				}
				// A run that had finished is checked too.
				snap, err := s.Newest(t.Context())
				if err != nil || !snap.Finished {
					t.Fatal(snap, err)
				}
				c.checks = append(c.checks, lost)
				again := New("checked", Config{Checkpoint: CheckpointConfig{Store: s.disk}, Resume: snap})
				To(OrderedWait(From(again, FromSlice(numbers(200))), async.Func(f.call, 4), async.Config{}), connector.Sink[int](s), Name("out"))
				if err := again.Run(t.Context()); !errors.Is(err, lost) {
					t.Errorf("the finished run ended with %v", err)
				}
			})
		})
	}
}
