// Package worker is the pool of Beam workers beside a Flink TaskManager. The TaskManager asks this
// small server for a worker for each job, and the worker then runs in the server's process. Make a
// pool with [New] and call Serve. The program must have registered everything that its pipelines
// need. All jobs share one process, and callers are not authenticated: listen only where the
// TaskManager alone can reach it, and do not use a pool for jobs that must be isolated from each
// other.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/container/tools"
	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/util/grpcx"
	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/internal/guard"
)

// Pool runs workers. Workers of different jobs share the process and its pool of channels, but not
// their state. Its methods are safe for concurrent use.
type Pool struct {
	fnpb.UnimplementedBeamFnExternalWorkerPoolServer
	log    *slog.Logger
	server *grpc.Server
	root   context.Context
	cancel context.CancelFunc
	all    sync.WaitGroup

	mu      sync.Mutex
	workers map[name]*running
	closed  bool
}

// name identifies a worker. Its id is not enough: each TaskManager counts its workers from 1, and
// several TaskManagers may share a pool, or one may have restarted.
type name struct{ id, control string }

// running is a worker.
type running struct{ cancel context.CancelFunc }

// New returns a pool that does not serve yet.
func New(log *slog.Logger) *Pool {
	p := &Pool{log: guard.Logger(log), server: grpc.NewServer(), workers: map[name]*running{}}
	p.root, p.cancel = context.WithCancel(context.Background())
	fnpb.RegisterBeamFnExternalWorkerPoolServer(p.server, p)
	return p
}

// Serve answers on l until Close. It returns an error if beam.Init was not called. Callers are not
// authenticated: every program that reaches l can have the pool run pipelines, which read and write
// files as this process's user.
func (p *Pool) Serve(l net.Listener) error {
	if !beam.Initialized() {
		return errors.New("worker: call beam.Init before Serve")
	}
	return p.server.Serve(l)
}

// StartWorker implements Beam's service for worker pools.
func (p *Pool) StartWorker(_ context.Context, r *fnpb.StartWorkerRequest) (*fnpb.StartWorkerResponse, error) {
	id := r.GetWorkerId()
	refuse := func(format string, args ...any) (*fnpb.StartWorkerResponse, error) {
		text := fmt.Sprintf(format, args...)
		p.log.Warn("refused to start a worker", "worker", id, "reason", text)
		return &fnpb.StartWorkerResponse{Error: text}, nil
	}
	control, logging := r.GetControlEndpoint(), r.GetLoggingEndpoint()
	switch {
	case control == nil || logging == nil:
		return refuse("the worker %s has no control endpoint or no logging endpoint", id)
	case control.GetAuthentication() != nil || logging.GetAuthentication() != nil:
		return refuse("the runner wants the worker %s to authenticate itself, which Beam's Go workers cannot do", id)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return refuse("the worker pool is closing")
	}
	n := name{id, control.GetUrl()}
	if old := p.workers[n]; old != nil {
		old.cancel() // its TaskManager would not ask for the same worker again
	}
	ctx, cancel := context.WithCancel(grpcx.WriteWorkerID(p.root, id))
	w := &running{cancel}
	p.workers[n] = w
	p.all.Go(func() {
		defer p.forget(n, w)
		p.run(ctx, id, r)
	})
	return &fnpb.StartWorkerResponse{}, nil
}

// provisionTimeout bounds the request for the runner's capabilities.
const provisionTimeout = 30 * time.Second

// run runs a worker until the TaskManager ends it or is gone.
func (p *Pool) run(ctx context.Context, id string, r *fnpb.StartWorkerRequest) {
	log := p.log.With("worker", id, "control", r.GetControlEndpoint().GetUrl())
	log.Info("a worker starts")
	var opts harness.Options
	if at := r.GetProvisionEndpoint().GetUrl(); at != "" {
		ask, cancel := context.WithTimeout(ctx, provisionTimeout)
		info, err := tools.ProvisionInfo(ask, at)
		cancel()
		if err != nil {
			log.Warn("the runner's capabilities are not known", "error", err)
		} else {
			opts.StatusEndpoint, opts.RunnerCapabilities = info.GetStatusEndpoint().GetUrl(), info.GetRunnerCapabilities()
		}
	}
	err := harness.MainWithOptions(ctx, r.GetLoggingEndpoint().GetUrl(), r.GetControlEndpoint().GetUrl(), opts)
	if err != nil && ctx.Err() == nil {
		log.Warn("a worker has lost its TaskManager", "error", err)
		return
	}
	log.Info("a worker has ended")
}

func (p *Pool) forget(n name, w *running) {
	w.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.workers[n] == w {
		delete(p.workers, n)
	}
}

// StopWorker implements Beam's service for worker pools. It does nothing, because it names a worker
// only by its id, which another TaskManager's worker may have too. A worker ends when its
// TaskManager closes the connection to it, which happens at the same time.
func (p *Pool) StopWorker(context.Context, *fnpb.StopWorkerRequest) (*fnpb.StopWorkerResponse, error) {
	return &fnpb.StopWorkerResponse{}, nil
}

// Close ends all workers. Flink fails the work in progress and starts it again on another pool, or
// on this one when it is back.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.server.Stop()
	p.all.Wait()
}
