package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/shm"
)

// shareTimeout bounds each call to the server about its regions.
const shareTimeout = 5 * time.Second

// sharing is the shared memory of a channel (A50). A slot belongs to a request until the request
// has ended at the server. If this side ended the request (the connection was lost, the channel
// closed), the server may still read and write the slot. Then no slot of its ring is used again,
// and a new ring is registered. A request that finds no slot carries its tensors itself.
type sharing struct {
	conn   grpc.ClientConnInterface
	name   *peerName
	log    *slog.Logger
	layout *layout
	slot   int // bytes of a slot
	slots  int
	claim  *shm.Claim

	mu       sync.Mutex
	current  *ring
	due      bool // a ring should be registered
	making   bool
	closed   bool
	made     int
	leftover []string // retired regions that the server may still know
	said     string   // the last logged reason why there is no shared memory
}

// open asks whether the server has shared memory, removes what dead clients have left there, and
// registers the first ring. A failure is not an error: tensors then travel in requests.
func (s *sharing) open(ctx context.Context) {
	if err := shm.Sweep(); err != nil {
		s.log.Warn("sidecar: shared memory of dead processes was not removed", "reason", err.Error())
	}
	var err error
	if s.claim, err = shm.NewClaim(); err != nil {
		s.without(err.Error())
		return
	}
	s.sweep(ctx)
	s.due = true
	s.make(ctx)
}

// sweep unregisters the regions of dead clients of this machine.
func (s *sharing) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	var known oip.SystemSharedMemoryStatusResponse
	err := s.conn.Invoke(ctx, oip.GRPCInferenceService_SystemSharedMemoryStatus_FullMethodName, &oip.SystemSharedMemoryStatusRequest{}, &known)
	if err != nil {
		return // registering will show why
	}
	for name := range known.Regions {
		if shm.Dead(name) {
			_ = s.unregister(ctx, name) // another client will try again
		}
	}
}

// unregister returns nil if the server does not know the region any more.
func (s *sharing) unregister(ctx context.Context, name string) error {
	var gone oip.SystemSharedMemoryUnregisterResponse
	err := s.conn.Invoke(ctx, oip.GRPCInferenceService_SystemSharedMemoryUnregister_FullMethodName,
		&oip.SystemSharedMemoryUnregisterRequest{Name: name}, &gone)
	if oip.Parse(err).Code == codes.NotFound {
		return nil
	}
	return err
}

// without logs once why there is no shared memory. Not under s.mu.
func (s *sharing) without(why string) {
	s.mu.Lock()
	again := s.said == why
	s.said = why
	s.mu.Unlock()
	if !again {
		s.log.Warn("sidecar: shared memory is not used; tensors travel in requests", "endpoint", s.name.endpoint, "reason", why)
	}
}

// make registers a ring, if one is due and no other goroutine is making one.
func (s *sharing) make(ctx context.Context) {
	s.mu.Lock()
	if !s.due || s.making || s.closed || s.current != nil {
		s.mu.Unlock()
		return
	}
	s.making, s.due = true, false // if lost is called meanwhile, it sets due again
	s.made++
	name := s.claim.Name() + "-" + strconv.Itoa(s.made)
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	s.clean(ctx)
	segment, err := s.register(ctx, name)

	s.mu.Lock()
	s.making = false
	if err == nil {
		s.current = newRing(name, segment, s.layout, s.slot, s.slots)
		if s.closed || s.due {
			s.retire(s.current)
		}
		s.said = ""
		s.mu.Unlock()
		s.log.Info("sidecar: large tensors travel by shared memory", "endpoint", s.name.endpoint,
			"region", name, "bytes", s.slot*s.slots, "slots", s.slots, "rows", s.layout.rows)
		return
	}
	// Without an answer, the server may still have registered it.
	if oip.Parse(err).Code != codes.Unimplemented {
		s.leftover = append(s.leftover, name)
	}
	s.mu.Unlock()
	s.without(err.Error())
}

// register makes a shared memory object and registers it with the server. After that the object no
// longer needs a name.
func (s *sharing) register(ctx context.Context, name string) (*shm.Segment, error) {
	segment, err := shm.Create(s.slot * s.slots)
	if err != nil {
		return nil, err
	}
	var done oip.SystemSharedMemoryRegisterResponse
	err = s.conn.Invoke(ctx, oip.GRPCInferenceService_SystemSharedMemoryRegister_FullMethodName, &oip.SystemSharedMemoryRegisterRequest{
		Name: name, Key: segment.Key(), ByteSize: uint64(s.slot * s.slots),
	}, &done)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the server does not accept the region: %w", err), segment.Close())
	}
	if err := segment.Unlink(); err != nil {
		s.log.Warn("sidecar: the name of shared memory was not removed", "reason", err.Error())
	}
	return segment, nil
}

// clean unregisters the retired regions. The server keeps a region that it still uses; it is asked
// again later. busy reports whether there was such a region.
func (s *sharing) clean(ctx context.Context) (busy bool) {
	s.mu.Lock()
	names := s.leftover
	s.leftover = nil
	s.mu.Unlock()
	var kept []string
	for _, name := range names {
		if err := s.unregister(ctx, name); err != nil {
			kept = append(kept, name)
			busy = busy || !slices.Contains([]codes.Code{codes.Unavailable, codes.Unimplemented, codes.DeadlineExceeded, codes.Canceled}, oip.Parse(err).Code)
		}
	}
	s.mu.Lock()
	s.leftover = append(s.leftover, kept...)
	s.mu.Unlock()
	return busy
}

// take returns a slot for a request, or nil if none is free.
func (s *sharing) take(ctx context.Context) *slot {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	due := s.due && !s.making
	s.mu.Unlock()
	if due {
		s.make(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.current
	if r == nil || len(r.free) == 0 {
		return nil
	}
	t := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	r.users++
	return t
}

// give takes back a slot that this side no longer uses. ended says that its request has ended at
// the server, or never went there. Only then is the slot used again.
func (s *sharing) give(t *slot, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := t.ring
	r.users--
	if ended {
		r.free = append(r.free, t)
	} else if s.current == r {
		s.due = true
		s.retire(r)
	}
	s.unmap(r)
}

// lost retires the ring because the connection was lost: a restarted server does not know the
// region.
func (s *sharing) lost() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = s.claim != nil
	s.retire(s.current)
}

// refused retires the ring because the server has refused a request over its shared memory. If the
// server has forgotten the region, a new one is registered. Otherwise tensors travel in requests
// from now on.
func (s *sharing) refused(t *slot, forgotten bool, why string) {
	s.mu.Lock()
	if s.current == t.ring {
		s.due = forgotten
		s.retire(t.ring)
	}
	s.mu.Unlock()
	if forgotten {
		s.log.Info("sidecar: the server has forgotten the shared memory", "endpoint", s.name.endpoint, "reason", why)
	} else {
		s.without(why)
	}
}

// retire marks a ring as no longer used. Under s.mu.
func (s *sharing) retire(r *ring) {
	if r == nil || r.retired {
		return
	}
	r.retired = true
	s.leftover = append(s.leftover, r.name)
	if s.current == r {
		s.current = nil
	}
	s.unmap(r)
}

// unmap releases a retired ring's memory once no goroutine of this side uses it. The server has its
// own mapping. Under s.mu.
func (s *sharing) unmap(r *ring) {
	if r.retired && r.users == 0 {
		if err := r.segment.Close(); err != nil {
			s.log.Warn("sidecar: shared memory was not released", "reason", err.Error())
		}
	}
}

// askAgain is the pause before a server that still uses a region is asked again.
const askAgain = 20 * time.Millisecond

// close unregisters everything, as far as the server can be reached. No worker runs any more when
// it is called.
func (s *sharing) close() {
	if s == nil || s.claim == nil {
		return
	}
	s.mu.Lock()
	s.closed = true
	s.retire(s.current)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// Triton answers a request a moment before it is done with the request's memory. Until then
	// it keeps the region.
	for s.clean(ctx) {
		select {
		case <-time.After(askAgain):
			continue
		case <-ctx.Done():
		}
		break
	}
	s.claim.Free() // the next client finds regions that are left on the server to be dead
}

// ended is in the context of an RPC, and is set when the server's own end of the RPC has arrived.
// The RPC's status does not show that: grpc makes the same status when a connection breaks.
type ended struct{ atomic.Bool }

type endedKey struct{}

// endings is the stats.Handler that sets ended.
type endings struct{}

func (endings) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (endings) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (endings) HandleConn(context.Context, stats.ConnStats)                       {}
func (endings) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.InTrailer); ok {
		if e, ok := ctx.Value(endedKey{}).(*ended); ok {
			e.Store(true)
		}
	}
}
