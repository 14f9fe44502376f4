package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// committer keeps what the sinks' committers remember between checkpoints. plan and adopt do no
// I/O; publish carries out what they decide.
type committer struct {
	sinks []*sinkCommitter
}

type sinkCommitter struct {
	name  string
	c     connector.Committer
	state []byte // as of the newest complete checkpoint
	next  []byte // as of the checkpoint that is being written
}

// sinkPlan is what one sink has to carry out.
type sinkPlan struct {
	sink *sinkCommitter
	plan []byte
}

// plan decides where the pending results of a checkpoint go. The sections belong in the checkpoint.
// The plans are for publish, when the checkpoint is complete.
func (c *committer) plan(acks []*ack, parallelism func(operator string) int) (sections []checkpoint.Section, plans []sinkPlan, err error) {
	for _, s := range c.sinks {
		var pending []connector.Pending
		for _, a := range acks { // in the order of tasks, so of subtasks
			for _, k := range a.sinks {
				if k.name == s.name {
					pending = append(pending, k.pending...)
				}
			}
		}
		var plan []byte
		err := guard("Plan of "+s.name, func() (err error) {
			s.next, plan, err = s.c.Plan(s.state, pending)
			return err
		})
		if err != nil {
			return nil, nil, fmt.Errorf("%s: cannot plan where its results go: %w", s.name, err)
		}
		sections = append(sections, checkpoint.Section{
			Operator: s.name, Kind: checkpoint.KindSink, Parallelism: parallelism(s.name),
			Parts: []checkpoint.Part{
				{Split: -1, Name: partState, Data: s.next},
				{Split: -1, Name: partPlan, Data: plan},
			},
		})
		plans = append(plans, sinkPlan{s, plan})
	}
	return sections, plans, nil
}

// adopt makes the states of the last plan the present ones, because their checkpoint is complete.
func (c *committer) adopt() {
	for _, s := range c.sinks {
		s.state = s.next
	}
}

// publish carries out plans. It does I/O and is called outside of any step. If a sink fails, the
// plans of the others are carried out all the same, and all failures are returned.
func publish(ctx context.Context, plans []sinkPlan) error {
	var errs []error
	for _, p := range plans {
		if err := p.run(ctx); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (p sinkPlan) run(ctx context.Context) error {
	err := guard("Commit of "+p.sink.name, func() error { return p.sink.c.Commit(ctx, p.plan) })
	if err != nil {
		return fmt.Errorf("%s: cannot publish its results: %w", p.sink.name, err)
	}
	return nil
}

// restore takes the states from a checkpoint and returns the plans that must be carried out again.
// A checkpoint that was kept before anything was read has no plans.
func (c *committer) restore(r *restored) (plans []sinkPlan) {
	for _, s := range c.sinks {
		was := r.sinks[s.name]
		s.state = was.state
		if was.planned {
			plans = append(plans, sinkPlan{s, was.plan})
		}
	}
	return plans
}

// state is what the committer of a sink remembers.
func (c *committer) state(name string) []byte {
	for _, s := range c.sinks {
		if s.name == name {
			return s.state
		}
	}
	return nil
}

// check asks whether what the sinks have published is still there. refused says that something is
// missing. err says that this could not be found out for now.
func (c *committer) check(ctx context.Context) (refused, err error) {
	var gone, unknown []error
	for _, s := range c.sinks {
		checker, ok := s.c.(connector.Checker)
		if !ok {
			continue
		}
		err := guard("Check of "+s.name, func() error { return checker.Check(ctx, s.state) })
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s: %w", s.name, err)
		if async.VerdictOf(err).Class == async.Permanent {
			gone = append(gone, err)
		} else {
			unknown = append(unknown, err)
		}
	}
	return errors.Join(gone...), errors.Join(unknown...)
}

// begin starts the sinks of a run that has no checkpoint.
func (c *committer) begin(ctx context.Context, previous *restored) error {
	for _, s := range c.sinks {
		var was []byte
		if previous != nil {
			was = previous.sinks[s.name].state
		}
		err := guard("Begin of "+s.name, func() (err error) {
			s.state, err = s.c.Begin(ctx, was)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: cannot begin: %w", s.name, err)
		}
	}
	return nil
}

// clean removes pending results that no checkpoint lists.
func (c *committer) clean(ctx context.Context) error {
	for _, s := range c.sinks {
		if err := guard("Clean of "+s.name, func() error { return s.c.Clean(ctx) }); err != nil {
			return fmt.Errorf("%s: cannot remove results that were never published: %w", s.name, err)
		}
	}
	return nil
}

func (c *committer) close() (err error) {
	for _, s := range c.sinks {
		if e := guard("Close of "+s.name, s.c.Close); e != nil && err == nil {
			err = fmt.Errorf("%s: %w", s.name, e)
		}
	}
	return err
}
