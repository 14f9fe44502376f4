package stream

import (
	"fmt"
	"slices"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// Rewind makes a checkpoint to resume from (Config.Resume) out of from, which is an older
// checkpoint than newest, the newest one of the same run. committers has the committers of the
// job's sinks by the names of their operators. A committer that is not a connector.Rewinder is an
// error. Rewind changes neither checkpoint. The caller must set Config.LastID, so that new
// checkpoints get ids above that of newest.
func Rewind(from, newest *checkpoint.Snapshot, committers map[string]connector.Committer) (*checkpoint.Snapshot, error) {
	if from.Run != newest.Run {
		return nil, fmt.Errorf("checkpoint %d is of run %s, but checkpoint %d is of run %s; want two checkpoints of the same run", from.ID, from.Run, newest.ID, newest.Run)
	}
	back := *from
	back.Sections = slices.Clone(from.Sections)
	for i := range back.Sections {
		sec := &back.Sections[i]
		if sec.Kind != checkpoint.KindSink {
			continue
		}
		r, ok := committers[sec.Operator].(connector.Rewinder)
		if !ok {
			return nil, fmt.Errorf("%s: the sink cannot take back the results that it has published since checkpoint %d", sec.Operator, from.ID)
		}
		at := slices.IndexFunc(newest.Sections, func(s checkpoint.Section) bool { return s.Kind == checkpoint.KindSink && s.Operator == sec.Operator })
		if at < 0 {
			return nil, fmt.Errorf("%s: checkpoint %d holds no state of it", sec.Operator, newest.ID)
		}
		state, err := r.Rewind(part(sec, partState), part(&newest.Sections[at], partState))
		if err != nil {
			return nil, fmt.Errorf("%s: cannot go back to checkpoint %d: %w", sec.Operator, from.ID, err)
		}
		sec.Parts = []checkpoint.Part{{Split: -1, Name: partState, Data: state}}
		for _, p := range newest.Sections[at].Parts {
			if p.Name == partPlan { // a checkpoint that publishes nothing has no plan
				sec.Parts = append(sec.Parts, p)
			}
		}
	}
	return &back, nil
}

func part(sec *checkpoint.Section, name string) []byte {
	for _, p := range sec.Parts {
		if p.Name == name {
			return p.Data
		}
	}
	return nil
}

// Published calls f for each sink in a checkpoint. state is the state that the sink's committer
// left there. plan is the plan that was to be carried out when the checkpoint was complete. The
// first error of f ends the calls, and Published returns it.
func Published(s *checkpoint.Snapshot, f func(sink string, state, plan []byte) error) error {
	for i := range s.Sections {
		if sec := &s.Sections[i]; sec.Kind == checkpoint.KindSink {
			if err := f(sec.Operator, part(sec, partState), part(sec, partPlan)); err != nil {
				return err
			}
		}
	}
	return nil
}
