package stream

import (
	"context"
	"errors"
	"fmt"
)

// exchange says how records go from one operator to the next.
type exchange uint8

const (
	forward exchange = iota // subtask i to subtask i, in the same goroutine
	inTurn                  // to each receiver in turn
	byKey                   // by the hash of the record's key
)

// node is one operator of a job's plan. What knows the types of its records is in
// the closures, which the generic constructors of stream.go make.
type node struct {
	name, kind  string
	parallelism int
	input       *node // nil for a source
	output      *node
	exchange    exchange // how the input comes
	edge        crossing // makes the exchange in front, where there is one
	waits       bool     // an asynchronous operator
	keyed       bool     // its records are partitioned by key; set by compile

	source *sourceNode
	sink   *sinkNode
	// head builds the head of a source's chain, and make an operator in front of
	// next; both know next to be an input of the node's output type.
	head func(env *taskEnv, next any) head
	make func(env *taskEnv, next any) any
}

type sourceNode struct {
	splits func(context.Context) ([]Split, error)
	verify func(context.Context, []Split, []int64) error
}

type sinkNode struct {
	committer func(context.Context) (Committer, error)
}

// stage is a chain of operators that one goroutine runs, in parallel subtasks.
type stage struct {
	nodes       []*node
	parallelism int
	from        *stage // the stage in front of the exchange, nil for a source
	to          *stage
}

func (s *stage) first() *node { return s.nodes[0] }
func (s *stage) last() *node  { return s.nodes[len(s.nodes)-1] }

// compile checks the plan and cuts it into stages. Stages, and the nodes in them, are in
// the order in which they were built, so an input comes before its taker.
func (j *Job) compile() ([]*stage, error) {
	errs := j.errs[:len(j.errs):len(j.errs)]
	if len(j.nodes) == 0 {
		errs = append(errs, errors.New("it has no source; begin with stream.From"))
	}
	for _, n := range j.nodes {
		if n.sink == nil && n.output == nil && n.kind != "sink" {
			errs = append(errs, fmt.Errorf("%s: nobody takes its stream; end it with stream.To or stream.Collect", n.name))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var stages []*stage
	in := map[*node]*stage{}
	for _, n := range j.nodes {
		var s *stage
		if n.input != nil {
			s = in[n.input]
		}
		alone := n.parallelism == 1 && n.input != nil && n.input.parallelism == 1
		switch {
		case n.input == nil:
			s = &stage{parallelism: n.parallelism}
			stages = append(stages, s)
		case n.exchange == forward || alone:
			n.keyed = n.input.keyed || n.exchange == byKey
		default:
			to := &stage{parallelism: n.parallelism, from: s}
			n.keyed = n.exchange == byKey
			s.to, s = to, to
			stages = append(stages, s)
		}
		s.nodes = append(s.nodes, n)
		in[n] = s
	}
	return stages, nil
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
			var next any
			if s.to != nil {
				to := s.to.first()
				next = to.edge.outlet(e, s.last().name, links[s.to], i, to.exchange)
			}
			nodes := s.nodes
			if s.from == nil {
				nodes = nodes[1:]
			}
			for k := len(nodes) - 1; k >= 0; k-- {
				next = nodes[k].make(e, next)
			}
			if s.from == nil {
				t.head = s.first().head(e, next)
			} else {
				t.head = s.first().edge.inlet(e, s.first().name, links[s], i, next)
			}
			tasks = append(tasks, t)
		}
	}
	return tasks
}
