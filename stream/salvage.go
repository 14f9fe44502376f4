package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// Salvage makes a checkpoint to resume from (Config.Resume) out of from, the newest whole
// checkpoint of a run whose newer checkpoints are damaged or may be gone. It asks the sinks whose
// committer is a connector.Salvager for what the newer ones published. opts says what becomes of
// that.
//
// committers has the committers of the job's sinks by the names of their operators. beyond has the
// names of the results that were found, by operator. If there are none, snap is from. blind has the
// names of the sinks that cannot tell. Salvage does not change from.
func Salvage(ctx context.Context, from *checkpoint.Snapshot, opts connector.SalvageOptions, committers map[string]connector.Committer) (snap *checkpoint.Snapshot, beyond map[string][]string, blind []string, err error) {
	back := *from
	back.Sections = slices.Clone(from.Sections)
	beyond = map[string][]string{}
	var errs []error
	for i := range back.Sections {
		sec := &back.Sections[i]
		if sec.Kind != checkpoint.KindSink {
			continue
		}
		s, ok := committers[sec.Operator].(connector.Salvager)
		if !ok {
			blind = append(blind, sec.Operator)
			continue
		}
		var state []byte
		var names []string
		err := guard("Salvage of "+sec.Operator, func() (err error) {
			state, names, err = s.Salvage(ctx, part(sec, partState), opts)
			return err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", sec.Operator, err))
		}
		if len(names) == 0 {
			continue
		}
		beyond[sec.Operator] = names
		// The plan was carried out before anything was published behind it.
		sec.Parts = []checkpoint.Part{{Split: -1, Name: partState, Data: state}, {Split: -1, Name: partPlan}}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, beyond, blind, err
	}
	if len(beyond) == 0 {
		return from, beyond, blind, nil
	}
	return &back, beyond, blind, nil
}

// unsettled asks the sinks, at the end of the input, whether results are missing that were to be
// made again.
func (c *committer) unsettled() error {
	var errs []error
	for _, s := range c.sinks {
		k, ok := s.c.(connector.Salvager)
		if !ok {
			continue
		}
		if err := guard("Unsettled of "+s.name, func() error { return k.Unsettled(s.next) }); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}

// Reclaim makes the checkpoint of a run that is to be replaced (Config.Previous). previous is the
// newest whole checkpoint of that run, or nil if it has none; newer ones may be damaged or gone. In
// the returned checkpoint, everything that lies in the places of the run's sinks counts as
// published by the run. Only sinks whose committer is a connector.Salvager are asked. Reclaim does
// not change previous.
func Reclaim(ctx context.Context, previous *checkpoint.Snapshot, committers map[string]connector.Committer) (*checkpoint.Snapshot, error) {
	back := checkpoint.Snapshot{}
	if previous != nil {
		back = *previous
	}
	back.Sections = slices.Clone(back.Sections)
	for name, c := range committers {
		s, ok := c.(connector.Salvager)
		if !ok {
			continue
		}
		at := slices.IndexFunc(back.Sections, func(s checkpoint.Section) bool { return s.Kind == checkpoint.KindSink && s.Operator == name })
		var state []byte
		if at >= 0 {
			state = part(&back.Sections[at], partState)
		}
		var names []string
		err := guard("Salvage of "+name, func() (err error) {
			state, names, err = s.Salvage(ctx, state, connector.SalvageOptions{NewerGone: true})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(names) == 0 {
			continue
		}
		sec := checkpoint.Section{Operator: name, Kind: checkpoint.KindSink, Parts: []checkpoint.Part{{Split: -1, Name: partState, Data: state}}}
		if at >= 0 {
			back.Sections[at] = sec
		} else {
			back.Sections = append(back.Sections, sec)
		}
	}
	return &back, nil
}
