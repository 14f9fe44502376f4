package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// maxRegions bounds the regions that callers can make the server hold open.
const maxRegions = 1024

// regions are the regions of POSIX shared memory that callers have registered.
//
// The server never maps a region. It reads and writes the object as a file. So a caller that
// truncates the object meanwhile gets an error, where a mapping would end the process with SIGBUS.
// And the bytes that were checked are those that are run, whatever the caller writes afterwards.
type regions struct {
	mu     sync.Mutex
	byName map[string]*region
}

// region is a part of an object. A request that uses it holds it. A region is closed when it is
// unregistered and not held.
type region struct {
	name, key    string
	offset, size uint64
	file         *os.File

	// Under the regions' lock.
	holds int
	gone  bool
}

// sharedMemoryServed returns nil if the calls are served for this caller, and otherwise why not.
func (s *service) sharedMemoryServed(ctx context.Context) *failure {
	refuse := func(why string) *failure {
		return &failure{code: codes.Unimplemented, reason: oip.ReasonUnsupportedFeature, message: "shared memory is not served: " + why + "; send tensors in the request"}
	}
	if s.cfg.NoSharedMemory {
		return refuse("it is switched off")
	}
	// The server opens objects with its own user's rights, so every caller that may name them
	// has these rights to them.
	switch who := callerOf(ctx); {
	case who.kind == inProcess, who.kind == onSocket && who.trusted():
		return nil
	case who.kind == onSocket && who.known:
		return refuse(fmt.Sprintf("the caller is another user of this machine (%d) than the server (%d)", who.user, os.Geteuid()))
	case who.kind == onSocket:
		return refuse("it is not known which user the caller is")
	case who.kind == onLoopback && s.cfg.SharedMemoryTCP:
		return nil
	case who.kind == onLoopback:
		return refuse("the caller came over TCP, which is open to every user of this machine; use a Unix socket, or start the server with --shared-memory-over-tcp")
	}
	return refuse("the caller is on another machine")
}

// checkKey checks the name of an object, as shm_open(3) takes it, and returns the name of its file.
// The name cannot lead out of the folder of these objects.
func checkKey(key string) (string, error) {
	name := strings.TrimPrefix(key, "/")
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("shared memory key %.300q: want a name of at most 255 bytes after at most one slash, as /frames", key)
	}
	return name, nil
}

// SystemSharedMemoryRegister registers a part of an object under a name.
func (s *service) SystemSharedMemoryRegister(ctx context.Context, req *oip.SystemSharedMemoryRegisterRequest) (*oip.SystemSharedMemoryRegisterResponse, error) {
	f := s.sharedMemoryServed(ctx)
	if f == nil {
		f = s.regions.register(req)
	}
	if f != nil {
		return nil, f.status("", "")
	}
	return &oip.SystemSharedMemoryRegisterResponse{}, nil
}

func (r *regions) register(req *oip.SystemSharedMemoryRegisterRequest) *failure {
	bad := func(format string, args ...any) *failure {
		return &failure{code: codes.InvalidArgument, message: fmt.Sprintf(format, args...)}
	}
	if req.GetName() == "" || len(req.GetName()) > 255 {
		return bad("a region's name must have 1 to 255 bytes; this one has %d", len(req.GetName()))
	}
	name, err := checkKey(req.GetKey())
	if err != nil {
		return bad("%v", err)
	}
	file, size, err := openObject(name)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return &failure{code: codes.Unimplemented, reason: oip.ReasonUnsupportedFeature, message: err.Error()}
	case err != nil:
		return bad("shared memory key %q: %v", req.GetKey(), err)
	}
	// The subtraction does not wrap, because the size was compared before.
	if req.GetByteSize() == 0 || req.GetByteSize() > size || req.GetOffset() > size-req.GetByteSize() {
		file.Close()
		return bad("region %q has %d bytes at offset %d, but the object %q has %d bytes", req.GetName(), req.GetByteSize(), req.GetOffset(), req.GetKey(), size)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.byName[req.GetName()] != nil:
		file.Close()
		return &failure{code: codes.AlreadyExists, message: fmt.Sprintf("region %q is registered already", req.GetName())}
	case len(r.byName) >= maxRegions:
		file.Close()
		return &failure{code: codes.ResourceExhausted, message: fmt.Sprintf("%d regions are registered, the most that the server allows; unregister some", maxRegions)}
	}
	if r.byName == nil {
		r.byName = map[string]*region{}
	}
	r.byName[req.GetName()] = &region{name: req.GetName(), key: req.GetKey(), offset: req.GetOffset(), size: req.GetByteSize(), file: file}
	return nil
}

// SystemSharedMemoryStatus lists one region, or all.
func (s *service) SystemSharedMemoryStatus(ctx context.Context, req *oip.SystemSharedMemoryStatusRequest) (*oip.SystemSharedMemoryStatusResponse, error) {
	if f := s.sharedMemoryServed(ctx); f != nil {
		return nil, f.status("", "")
	}
	s.regions.mu.Lock()
	defer s.regions.mu.Unlock()
	out := &oip.SystemSharedMemoryStatusResponse{Regions: map[string]*oip.SystemSharedMemoryStatusResponse_RegionStatus{}}
	for name, r := range s.regions.byName {
		if req.GetName() == "" || req.GetName() == name {
			out.Regions[name] = &oip.SystemSharedMemoryStatusResponse_RegionStatus{Name: name, Key: r.key, Offset: r.offset, ByteSize: r.size}
		}
	}
	if req.GetName() != "" && len(out.Regions) == 0 {
		return nil, noRegion(req.GetName()).status("", "")
	}
	return out, nil
}

func noRegion(name string) *failure {
	return &failure{code: codes.NotFound, message: fmt.Sprintf("Unable to find shared memory region: %.300q", name)}
}

// SystemSharedMemoryUnregister forgets one region, or all. An unknown name is not an error.
func (s *service) SystemSharedMemoryUnregister(ctx context.Context, req *oip.SystemSharedMemoryUnregisterRequest) (*oip.SystemSharedMemoryUnregisterResponse, error) {
	if f := s.sharedMemoryServed(ctx); f != nil {
		return nil, f.status("", "")
	}
	s.regions.forget(req.GetName())
	return &oip.SystemSharedMemoryUnregisterResponse{}, nil
}

// forget unregisters the named region; empty: all.
func (r *regions) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, g := range r.byName {
		if name == "" || n == name {
			delete(r.byName, n)
			g.gone = true
			g.closeUnused()
		}
	}
}

// closeUnused must be called with the regions' lock held.
func (g *region) closeUnused() {
	if g.gone && g.holds == 0 {
		g.file.Close()
	}
}

// hold returns the named region, or nil. The region stays open until drop.
func (r *regions) hold(name string) *region {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.byName[name]
	if g != nil {
		g.holds++
	}
	return g
}

func (r *regions) drop(g *region) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g.holds--
	g.closeUnused()
}

// place is where a tensor lies in a region.
type place struct {
	region       *region
	offset, size uint64 // within the region
}

// inShared reports whether a tensor's parameters place it in shared memory.
func inShared(ps map[string]*oip.InferParameter) bool {
	for name := range ps {
		if strings.HasPrefix(name, "shared_memory_") {
			return true
		}
	}
	return false
}

// locate reads the parameters of a tensor in shared memory, and holds its region.
func (r *regions) locate(tensor string, ps map[string]*oip.InferParameter) (place, *badInput) {
	bad := func(code codes.Code, format string, args ...any) (place, *badInput) {
		return place{}, &badInput{failure{code: code, reason: oip.ReasonBadTensor, message: fmt.Sprintf(format, args...)}, tensor}
	}
	number := func(name string) (uint64, bool) {
		switch v := ps[name].GetParameterChoice().(type) {
		case *oip.InferParameter_Int64Param:
			return uint64(v.Int64Param), v.Int64Param >= 0
		case *oip.InferParameter_Uint64Param:
			return v.Uint64Param, true
		case nil:
			return 0, true
		}
		return 0, false
	}
	name, ok := ps[oip.SharedMemoryRegion].GetParameterChoice().(*oip.InferParameter_StringParam)
	offset, okOffset := number(oip.SharedMemoryOffset)
	size, okSize := number(oip.SharedMemorySize)
	if !ok || !okOffset || !okSize || ps[oip.SharedMemorySize] == nil {
		return bad(codes.InvalidArgument, "tensor %q in shared memory: want the parameters %s (a string), %s and, if it is not 0, %s (numbers)",
			tensor, oip.SharedMemoryRegion, oip.SharedMemorySize, oip.SharedMemoryOffset)
	}
	g := r.hold(name.StringParam)
	if g == nil {
		return place{}, &badInput{*noRegion(name.StringParam), ""}
	}
	if size > g.size || offset > g.size-size {
		r.drop(g)
		return bad(codes.InvalidArgument, "tensor %q has %d bytes at offset %d of region %q, which has %d bytes", tensor, size, offset, g.name, g.size)
	}
	return place{g, offset, size}, nil
}

// sharedTensors are the regions that a request holds, and where its outputs go.
type sharedTensors struct {
	regions *regions
	held    []*region
	outputs map[string]place
}

// release drops all regions.
func (t *sharedTensors) release() {
	for _, g := range t.held {
		t.regions.drop(g)
	}
}

// fetch puts the inputs that lie in shared memory into the message, as raw contents, and finds the
// places of outputs. The result is nil if the request uses no shared memory. Otherwise the caller
// must release it.
func (s *service) fetch(ctx context.Context, msg *oip.ModelInferRequest) (*sharedTensors, *badInput) {
	uses := false
	for _, in := range msg.GetInputs() {
		uses = uses || inShared(in.GetParameters())
	}
	for _, out := range msg.GetOutputs() {
		uses = uses || inShared(out.GetParameters())
	}
	if !uses {
		return nil, nil
	}
	if f := s.sharedMemoryServed(ctx); f != nil {
		return nil, &badInput{*f, ""}
	}
	t := &sharedTensors{regions: &s.regions, outputs: map[string]place{}}
	bad := t.locateAll(s, msg)
	if bad != nil {
		t.release()
		return nil, bad
	}
	return t, nil
}

func (t *sharedTensors) locateAll(s *service, msg *oip.ModelInferRequest) *badInput {
	var places []place // of the inputs; those that are not shared have no region
	total := uint64(0)
	shared := false
	for _, in := range msg.GetInputs() {
		var p place
		if inShared(in.GetParameters()) {
			var bad *badInput
			if p, bad = t.regions.locate(in.GetName(), in.GetParameters()); bad != nil {
				return bad
			}
			t.held = append(t.held, p.region)
			if total += p.size; total > uint64(s.cfg.QueueBytes) {
				return &badInput{failure{code: codes.ResourceExhausted, message: fmt.Sprintf(
					"a request of %d bytes is larger than max (%d bytes may wait); send fewer rows", total, s.cfg.QueueBytes)}, ""}
			}
			shared = true
		}
		places = append(places, p)
	}
	for _, out := range msg.GetOutputs() {
		if inShared(out.GetParameters()) {
			p, bad := t.regions.locate(out.GetName(), out.GetParameters())
			if bad != nil {
				return bad
			}
			t.held = append(t.held, p.region)
			t.outputs[out.GetName()] = p
		}
	}
	if !shared {
		return nil
	}
	// The inputs take memory before the request is admitted, so they count as waiting already.
	if !s.admission.enter(0, int64(total)) {
		return &badInput{*s.full(), ""}
	}
	defer s.admission.leave(0, int64(total))
	return fillInputs(msg, places)
}

// fillInputs reads the inputs that have a place, so that the message has raw contents for all.
func fillInputs(msg *oip.ModelInferRequest, places []place) *badInput {
	raw := msg.GetRawInputContents()
	var all [][]byte
	for i, in := range msg.GetInputs() {
		p := places[i]
		if p.region == nil {
			if len(raw) == 0 {
				return &badInput{failure{code: codes.InvalidArgument, reason: oip.ReasonBadTensor, message: fmt.Sprintf(
					"input %q needs raw contents, because other inputs lie in shared memory", in.GetName())}, in.GetName()}
			}
			all, raw = append(all, raw[0]), raw[1:]
			continue
		}
		data := make([]byte, p.size)
		if _, err := p.region.file.ReadAt(data, int64(p.region.offset+p.offset)); err != nil {
			if err == io.EOF {
				err = errShrunk
			}
			return &badInput{failure{code: codes.InvalidArgument, reason: oip.ReasonBadTensor, message: fmt.Sprintf(
				"input %q in the shared memory region %q: %v", in.GetName(), p.region.name, err)}, in.GetName()}
		}
		all = append(all, data)
		in.Contents = nil
	}
	if len(raw) > 0 {
		return &badInput{failure{code: codes.InvalidArgument, reason: oip.ReasonBadTensor, message: fmt.Sprintf(
			"the request has %d raw contents more than it has inputs that are not in shared memory", len(raw))}, ""}
	}
	msg.RawInputContents = all
	return nil
}

// store writes outputs to their places in shared memory, and removes their bytes from the answer.
// Like Triton it leaves an empty entry there.
func (t *sharedTensors) store(outputs []tensor.Tensor) *failure {
	for i := range outputs {
		out := &outputs[i]
		p, ok := t.outputs[out.Name]
		if !ok {
			continue
		}
		if uint64(len(out.Raw)) > p.size {
			return &failure{code: codes.InvalidArgument, message: fmt.Sprintf(
				"output %q has %d bytes; its place in the shared memory region %q has %d", out.Name, len(out.Raw), p.region.name, p.size)}
		}
		if err := p.write(out.Raw); err != nil {
			return &failure{code: codes.InvalidArgument, message: fmt.Sprintf("output %q cannot be written to the shared memory region %q: %v", out.Name, p.region.name, err)}
		}
		out.Raw = nil
	}
	return nil
}

var errShrunk = errors.New("the object has become smaller since it was registered")

// write writes data to the place. It checks the object's size first, because a write would extend
// an object that was truncated.
func (p place) write(data []byte) error {
	at := int64(p.region.offset + p.offset)
	st, err := p.region.file.Stat()
	if err == nil && st.Size() < at+int64(len(data)) {
		err = errShrunk
	}
	if err == nil {
		_, err = p.region.file.WriteAt(data, at)
	}
	return err
}
