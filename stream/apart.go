package stream

import (
	"context"
	"fmt"

	"github.com/tensorferry/tensorferry/connector"
)

// wrapper is implemented by the sources of this package that wrap another source.
type wrapper interface{ wrapped() any }

// apartOf returns the source, or the source inside it, that is a LoopChecker, or nil if none does.
func apartOf(src any) connector.LoopChecker {
	for {
		if a, ok := src.(connector.LoopChecker); ok {
			return a
		}
		w, ok := src.(wrapper)
		if !ok {
			return nil
		}
		src = w.wrapped()
	}
}

// apart asks the sources whether they read what the job itself writes.
func (r *Run) apart(ctx context.Context) error {
	own := []any{r.cfg.Checkpoint.Store}
	for _, n := range r.job.nodes {
		if n.sink != nil {
			own = append(own, n.sink.sink)
		}
	}
	for _, n := range r.job.nodes {
		if n.source == nil || n.source.apart == nil {
			continue
		}
		err := guard("CheckLoop of "+n.name, func() error { return n.source.apart.CheckLoop(ctx, own...) })
		if err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	return nil
}
