package server

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// places bounds how many calls of a kind are in flight. Kinds that may last long (inferences,
// streams, loads of models) have places of their own, so that probes and jobs that start find one.
type places struct {
	budget
	what string // the kind of calls, for the error of a call that gets no place
	how  string // the flag that sets the bound, or its origin, for the same error
}

const (
	// mostLoads is how many calls may load and unload models at once.
	mostLoads = 16
	// mostWatches is how many watches of the server's health a connection may have. Clients
	// that balance their calls keep a watch of each service on each connection, and never end
	// it. So a watch has its place with the connection, and takes no place of other calls.
	mostWatches = 2
)

// otherCalls returns how many calls that are not inferences may be in flight, and how many streams.
func otherCalls(maxCalls int) int { return max(maxCalls/4, 16) }

const quarter = "a quarter of --max-calls, and at least 16"

func newPlaces(most int, what, how string) places {
	return places{budget: budget{most: int64(most)}, what: what, how: how}
}

// places returns the places for calls of a method with one request.
func (s *Server) places(method string) *places {
	switch method {
	case oip.GRPCInferenceService_ModelInfer_FullMethodName:
		return &s.calls
	case oip.GRPCInferenceService_RepositoryModelLoad_FullMethodName, oip.GRPCInferenceService_RepositoryModelUnload_FullMethodName:
		return &s.loads
	}
	return &s.others
}

func (s *Server) noPlace(p *places) *failure {
	s.turnAway(doorCall)
	return &failure{code: codes.ResourceExhausted, reason: oip.ReasonQueueFull, retry: s.cfg.RetryDelay,
		message: fmt.Sprintf("%d %s, the most that the server allows (%s); wait, or send less", p.most, p.what, p.how)}
}

// placeOfStream takes a place for a stream, or says why there is none.
func (s *Server) placeOfStream(ctx context.Context, method string) (leave func(), _ *failure) {
	if method != grpc_health_v1.Health_Watch_FullMethodName {
		if !s.streams.try(1) {
			return nil, s.noPlace(&s.streams)
		}
		return func() { s.streams.give(1) }, nil
	}
	conn := connection(ctx)
	if !s.watches.try(conn) {
		s.turnAway(doorCall)
		return nil, &failure{code: codes.ResourceExhausted, reason: oip.ReasonQueueFull, retry: s.cfg.RetryDelay, message: fmt.Sprintf(
			"this connection has %d watches of the server's health, the most that the server allows; end a watch, or open another connection", mostWatches)}
	}
	return func() { s.watches.give(conn) }, nil
}

// watches counts the watches of each connection.
type watches struct {
	mu sync.Mutex
	of map[uint64]int
}

func (w *watches) try(conn uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of[conn] >= mostWatches {
		return false
	}
	if w.of == nil {
		w.of = map[uint64]int{}
	}
	w.of[conn]++
	return true
}

func (w *watches) give(conn uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of[conn]--; w.of[conn] == 0 {
		delete(w.of, conn)
	}
}
