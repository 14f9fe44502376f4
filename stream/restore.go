package stream

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// restored is a checkpoint, ready to be dealt out to subtasks.
type restored struct {
	id       int64
	finished bool
	splits   map[string][]splitState // by source
	async    map[string]checkpoint.Section
	sinks    map[string]sinkState
	counts   map[string]opCounts
	counters []checkpoint.Counter // from which counts was made
}

// sinkState is what a committer left in a checkpoint.
type sinkState struct {
	state, plan []byte
	planned     bool // there is a plan, which may be empty
}

// publishes reports whether the checkpoint publishes results. One that only says where an attempt
// began to read does not (A46).
func (r *restored) publishes() bool {
	for _, s := range r.sinks {
		if s.planned {
			return true
		}
	}
	return false
}

// restoreFrom reads a checkpoint for the operators of a plan. State of an operator that the plan
// lacks is an error, and so is an operator without its state.
func restoreFrom(snap *checkpoint.Snapshot, stages []*stage) (*restored, error) {
	r := &restored{
		id: snap.ID, finished: snap.Finished,
		splits: map[string][]splitState{}, async: map[string]checkpoint.Section{},
		sinks: map[string]sinkState{}, counts: map[string]opCounts{}, counters: snap.Counters,
	}
	want := map[string]string{}
	for _, s := range stages {
		for _, n := range s.nodes {
			if k := n.stateKind(); k != "" {
				want[n.name] = k
			}
		}
	}
	var errs []error
	for _, sec := range snap.Sections {
		if want[sec.Operator] != sec.Kind {
			errs = append(errs, fmt.Errorf("it holds the state of %s %q, which the job does not have", sec.Kind, sec.Operator))
			continue
		}
		delete(want, sec.Operator)
		var err error
		switch sec.Kind {
		case checkpoint.KindSource:
			r.splits[sec.Operator], err = readSplits(sec)
		case checkpoint.KindAsync:
			r.async[sec.Operator] = sec
		case checkpoint.KindSink:
			var s sinkState
			for _, p := range sec.Parts {
				switch p.Name {
				case partState:
					s.state = p.Data
				case partPlan:
					s.plan, s.planned = p.Data, true
				}
			}
			r.sinks[sec.Operator] = s
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", sec.Operator, err))
		}
	}
	for _, s := range stages {
		for _, n := range s.nodes {
			if k := want[n.name]; k != "" {
				errs = append(errs, fmt.Errorf("it holds no state of %s %q", k, n.name))
			}
		}
	}
	for _, c := range snap.Counters {
		r.count(c)
	}
	if errs != nil {
		return nil, fmt.Errorf("checkpoint %d does not fit this job: %w", snap.ID, errors.Join(errs...))
	}
	return r, nil
}

// stateKind returns the kind of a node's section in a checkpoint, or "" if it has none.
func (n *node) stateKind() string {
	switch {
	case n.input == nil:
		return checkpoint.KindSource
	case n.waits:
		return checkpoint.KindAsync
	case n.sink != nil:
		return checkpoint.KindSink
	}
	return ""
}

func readSplits(sec checkpoint.Section) ([]splitState, error) {
	positions, err := sec.Splits()
	all := make([]splitState, len(positions))
	for i, p := range positions {
		all[i] = splitState{index: i, split: connector.Split{Data: p.Data, Start: p.Start}, next: p.Next, done: p.Done}
	}
	return all, err
}

// Names of an operator's counters: the operator, a slash, what is counted.
const (
	countIn      = "in"
	countDone    = "completed"
	countDropped = "dropped"
	countLetters = "dead-lettered"
	countOut     = "out"
	countHeld    = "held"
)

// count takes one counter of a checkpoint. It ignores those of the whole job, which follow from the
// others.
func (r *restored) count(c checkpoint.Counter) {
	at := strings.LastIndexByte(c.Name, '/')
	if at < 0 {
		return
	}
	name := c.Name[:at]
	o := r.counts[name]
	o.operator = name
	switch c.Name[at+1:] {
	case countIn:
		o.in = c.Value
	case countDone:
		o.done = c.Value
	case countDropped:
		o.dropped = c.Value
	case countLetters:
		o.lettered = c.Value
	case countOut:
		o.out = c.Value
	}
	r.counts[name] = o
}

// counters appends the counters that restored.count reads.
func (c opCounts) counters(dst []checkpoint.Counter) []checkpoint.Counter {
	return append(dst,
		checkpoint.Counter{Name: c.operator + "/" + countIn, Value: c.in},
		checkpoint.Counter{Name: c.operator + "/" + countDone, Value: c.done},
		checkpoint.Counter{Name: c.operator + "/" + countDropped, Value: c.dropped},
		checkpoint.Counter{Name: c.operator + "/" + countLetters, Value: c.lettered},
		checkpoint.Counter{Name: c.operator + "/" + countOut, Value: c.out},
		checkpoint.Counter{Name: c.operator + "/" + countHeld, Value: c.held},
	)
}

// restoreEntries returns the records that a subtask of an asynchronous operator must call before
// its input, in their earlier order. Keyed records move with their key. Other records stay with
// their subtask or, if the parallelism has changed, go with their split.
func restoreEntries[T any](env *taskEnv, operator string, keyed bool, s Serializer[T]) ([]Record[T], []async.QueuedWatermark, error) {
	if env.restore == nil {
		return nil, nil, nil
	}
	sec := env.restore.async[operator]
	same := sec.Parallelism == env.parallelism
	type kept struct {
		subtask int
		keptEntry[T]
	}
	var mine []kept
	var marks []async.QueuedWatermark
	form := string(part(&sec, partForm))
	for _, p := range sec.Parts {
		ours := p.Subtask == env.index
		if !same && p.Split >= 0 {
			ours = p.Split%env.parallelism == env.index
		}
		switch {
		case p.Name == partMarks && same && ours:
			var err error
			if marks, err = decodeMarks(p.Data); err != nil {
				return nil, nil, fmt.Errorf("checkpoint %d, %s: %w", env.restore.id, operator, err)
			}
		case p.Name == checkpoint.PartEntries && (keyed || ours):
			reader, err := readerOf(form, s)
			var all []keptEntry[T]
			if err == nil {
				all, err = decodeEntries(p.Data, p.Split, reader)
			}
			if err != nil {
				return nil, nil, fmt.Errorf("checkpoint %d, %s: %w", env.restore.id, operator, err)
			}
			for _, e := range all {
				if !keyed || laneOf(e.rec.Key, env.parallelism) == env.index {
					mine = append(mine, kept{p.Subtask, e})
				}
			}
		}
	}
	slices.SortStableFunc(mine, func(a, b kept) int {
		return cmp.Or(cmp.Compare(a.subtask, b.subtask), cmp.Compare(a.seq, b.seq))
	})
	recs := make([]Record[T], len(mine))
	for i := range mine {
		recs[i] = mine[i].rec
	}
	return recs, marks, nil
}

// countersOf returns the counters of a checkpoint: those of the job, and of each operator.
func countersOf(operators []planned, counts map[string]opCounts) []checkpoint.Counter {
	all := jobTotals(operators, counts).counters()
	for _, o := range operators {
		n := counts[o.name]
		n.operator = o.name
		all = n.counters(all)
	}
	return all
}

// readerOf returns the reader for values of a form. s is the operator's serializer.
func readerOf[T any](form string, s Serializer[T]) (valueReader[T], error) {
	own := ownSerializer(s)
	switch {
	case form == formLayout && own:
		return serializerFor[T](nil) // the job had no serializer of its own then
	case form == formOwn && !own:
		return nil, errors.New("its records were written by a serializer of the job's own; set the same one again (stream.WithSerializer)")
	case form == "" && !own:
		return jsonSerializer[T]{}, nil
	}
	return s, nil
}

// base returns the counts of an operator in a checkpoint. r may be nil.
func base(r *restored, operator string) opCounts {
	if r != nil {
		if c, ok := r.counts[operator]; ok {
			return c
		}
	}
	return opCounts{operator: operator}
}
