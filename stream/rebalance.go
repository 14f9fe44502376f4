package stream

import (
	"context"
	"fmt"

	"github.com/tensorferry/tensorferry/connector"
)

// rebalancing returns the sources whose splits may change, by their names.
func (r *Run) rebalancing() map[string]connector.Rebalancing {
	all := map[string]connector.Rebalancing{}
	for _, n := range r.job.nodes {
		if n.source != nil && n.source.rebalancing != nil {
			all[n.name] = n.source.rebalancing
		}
	}
	return all
}

// assign asks the rebalancing sources for their splits, before an attempt that would begin with the
// given ones, and puts them in their place.
func (r *Run) assign(ctx context.Context, splits map[string][]splitState) error {
	for name, e := range r.rebalancing() {
		var was []connector.Split
		var next []int64
		for _, s := range splits[name] {
			was, next = append(was, s.split), append(next, s.next)
		}
		err := guard("Assign of "+name, func() error {
			now, at, err := e.Assign(ctx, was, next)
			if err != nil {
				return err
			}
			if len(at) != len(now) {
				return fmt.Errorf("%d splits and %d positions; want one for each", len(now), len(at))
			}
			all := make([]splitState, len(now))
			for i, s := range now {
				all[i] = splitState{index: i, split: s, next: at[i]}
			}
			splits[name] = all
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: cannot find out what to read: %w", name, err)
		}
	}
	return nil
}

// watchSplits waits for each rebalancing source until its splits have changed, and reports that.
func (r *Run) watchSplits(ctx context.Context, inbox *mailbox[message], run func(func())) {
	for name, e := range r.rebalancing() {
		run(func() {
			err := errNotReturned
			defer func() {
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					err = fmt.Errorf("%s: %w", name, err)
				}
				inbox.send(message{changed: true, err: err})
			}()
			err = guard("Changed of "+name, func() error { return e.Changed(ctx) })
		})
	}
}
