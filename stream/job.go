package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Job is a plan of sources, operators and sinks. It must be built from one goroutine, and can be
// run once.
type Job struct {
	name  string
	cfg   Config
	nodes []*node
	names map[string]bool
	kinds map[string]int
	errs  []error

	mu      sync.Mutex
	started bool
}

// New begins a job. Mistakes in cfg, and in everything that is built on the job, are returned
// together when the job is started.
func New(name string, cfg Config) *Job {
	j := &Job{name: name, names: map[string]bool{}, kinds: map[string]int{}}
	var err error
	if j.cfg, err = cfg.resolve(); err != nil {
		j.errs = append(j.errs, err)
	}
	if name == "" {
		j.errs = append(j.errs, errors.New("the job has no name"))
	}
	return j
}

// Name returns the job's name.
func (j *Job) Name() string { return j.name }

// Run starts the job and waits for its end. It returns nil when the whole input has been read and
// every result is published. When ctx ends, nothing more is emitted, calls in flight are cancelled,
// and the error wraps context.Cause(ctx). After Stop the error is ErrStopped. When Run returns, no
// goroutine of the job is left.
func (j *Job) Run(ctx context.Context) error { return j.Start(ctx).Wait() }

// Start starts the job in the background. If the job cannot start, Wait of the Run returns the
// error. A job that was started before is an error.
func (j *Job) Start(ctx context.Context) *Run {
	j.mu.Lock()
	again := j.started
	j.started = true
	j.mu.Unlock()
	r := newRun(j)
	stages, err := j.compile()
	if again {
		err = errors.New("it was started before; build a new job for another run")
	}
	if err != nil {
		r.end(fmt.Errorf("job %q cannot start: %w", j.name, err))
		return r
	}
	r.plan(stages)
	go r.main(ctx)
	return r
}

// fault notes a mistake in the building of the job.
func (j *Job) fault(operator string, err error) {
	j.errs = append(j.errs, fmt.Errorf("%s: %w", operator, err))
}

// add gives a node its name and its place in the job.
func (j *Job) add(n *node, o options, err error) *node {
	j.kinds[n.kind]++
	if n.name = o.name; n.name == "" {
		n.name = n.kind
		if k := j.kinds[n.kind]; k > 1 {
			n.name = fmt.Sprintf("%s-%d", n.kind, k)
		}
	}
	if err != nil {
		j.fault(n.name, err)
	}
	if j.names[n.name] {
		j.fault(n.name, errors.New("two operators have this name; rename one of them with stream.Name"))
	}
	j.names[n.name] = true
	j.nodes = append(j.nodes, n)
	return n
}
