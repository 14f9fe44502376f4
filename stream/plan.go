package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/connector"
)

// exchange says how records go from one operator to the next.
type exchange uint8

const (
	forward exchange = iota // subtask i to subtask i, in the same goroutine
	inTurn                  // to each receiver in turn
	byKey                   // by the hash of the record's key
)

// node is one operator of a job's plan. Only its closures know the types of its records; the
// generic constructors of stream.go make them.
type node struct {
	name, kind  string
	parallelism int
	input       *node // nil for a source
	output      *node
	side        *node    // takes the records that failed, of an operator with dead letters
	letters     bool     // has a second stream, of those records
	sided       bool     // takes the second stream of its input
	stage       *stage   // set by compile
	exchange    exchange // how the input comes
	edge        crossing // makes the exchange in front, where there is one
	waits       bool     // an asynchronous operator
	keyed       bool     // its records are partitioned by key; set by compile
	wantsKeys   bool     // it needs records that are partitioned by key

	source *sourceNode
	sink   *sinkNode
	// head builds the head of a source's chain. make builds an operator in front of next. next is
	// an input of the node's output type. side is where the records that fail go; it is nil unless
	// the operator has dead letters.
	head func(env *taskEnv, next any) head
	make func(env *taskEnv, next, side any) any
}

type sourceNode struct {
	splits func(context.Context) ([]connector.Split, error)
	verify func(context.Context, []connector.Split, []int64) error
	// rebalancing is nil for a source whose splits stay.
	rebalancing connector.Rebalancing
	// apart is nil for a source that cannot find out whether it reads what its job writes.
	apart connector.LoopChecker
}

type sinkNode struct {
	committer func(context.Context) (connector.Committer, error)
	sink      any
}

// stage is a chain of operators that one goroutine runs, in parallel subtasks. Behind an operator
// with dead letters the chain is a tree.
type stage struct {
	nodes       []*node
	parallelism int
	from        *stage // the stage in front of the exchange, nil for a source
}

func (s *stage) first() *node { return s.nodes[0] }

// compile checks the plan and cuts it into stages. Stages, and the nodes in them, are in the order
// in which they were built, so an input comes before its taker.
func (j *Job) compile() ([]*stage, error) {
	errs := j.errs[:len(j.errs):len(j.errs)]
	if len(j.nodes) == 0 {
		errs = append(errs, errors.New("it has no source; begin with stream.From"))
	}
	for _, n := range j.nodes {
		if n.sink == nil && n.output == nil && n.kind != "sink" {
			errs = append(errs, fmt.Errorf("%s: no operator takes its stream; end it with stream.To or stream.Collect", n.name))
		}
		if n.letters && n.side == nil {
			errs = append(errs, fmt.Errorf("%s: no operator takes the stream of the records that fail; end it with stream.To or stream.Collect", n.name))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var stages []*stage
	for _, n := range j.nodes {
		var s *stage
		if n.input != nil {
			s = n.input.stage
		}
		alone := n.parallelism == 1 && n.input != nil && n.input.parallelism == 1
		switch {
		case n.input == nil:
			s = &stage{parallelism: n.parallelism}
			stages = append(stages, s)
		case n.exchange == forward || alone:
			n.keyed = n.input.keyed || n.exchange == byKey
		default:
			s = &stage{parallelism: n.parallelism, from: s}
			n.keyed = n.exchange == byKey
			stages = append(stages, s)
		}
		s.nodes = append(s.nodes, n)
		n.stage = s
		if n.wantsKeys && !n.keyed {
			errs = append(errs, fmt.Errorf("%s: the order is keyed, but its input is not partitioned by key; want a stream from stream.KeyBy", n.name))
		}
	}
	return stages, errors.Join(errs...)
}

// build makes the subtasks of all stages, with the exchanges between them. Nothing is opened.
func build(stages []*stage, env func(s *stage, index int) *taskEnv) []*task {
	var tasks []*task
	links := map[*stage]any{} // by receiving stage
	for _, s := range stages {
		if s.from != nil {
			links[s] = s.first().edge.links(s.from.parallelism, s.parallelism)
		}
	}
	for _, s := range stages {
		for i := range s.parallelism {
			e := env(s, i)
			t := newTask(e)
			t.first = s.first().name
			made := map[*node]any{}
			// taker returns what takes a stream of n: an operator that was made before, or the
			// exchange in front of one.
			taker := func(n, to *node) any {
				switch {
				case to == nil:
					return nil
				case to.stage == s:
					return made[to]
				}
				return to.edge.outlet(e, n.name, links[to.stage], i, to.exchange)
			}
			for k := len(s.nodes) - 1; k >= 0; k-- {
				if n := s.nodes[k]; n.input != nil {
					made[n] = n.make(e, taker(n, n.output), taker(n, n.side))
				} else {
					t.head = n.head(e, taker(n, n.output))
				}
			}
			if s.from != nil {
				t.head = s.first().edge.inlet(e, s.first().name, links[s], i, made[s.first()])
			}
			tasks = append(tasks, t)
		}
	}
	return tasks
}
