package sidecar

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"os"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// sharedMemory is the shared memory of a peerServer. It reads a slot when the model runs, as a
// server that maps regions does, and not when the request arrives, as our own sidecar does.
type sharedMemory struct {
	// before is called for the n-th request, from 0, before its slot is read.
	before func(n int) error
	refuse func(*oip.SystemSharedMemoryRegisterRequest) error

	mu      sync.Mutex
	busy    int // how many requests to unregister are refused
	regions map[string]*os.File
	gone    []string // unregistered
	keys    []string
	log     []sharedRequest
}

// sharedRequest says where the tensors of a request were. Size 0: in the message.
type sharedRequest struct {
	in, out oip.Place
	first   float32 // value that the model saw
	timeout int64   // queue timeout in microseconds
}

func (m *sharedMemory) place(ps map[string]*oip.InferParameter) oip.Place {
	return oip.Place{
		Region: ps[oip.SharedMemoryRegion].GetStringParam(),
		Offset: int(ps[oip.SharedMemoryOffset].GetInt64Param()),
		Size:   int(ps[oip.SharedMemorySize].GetInt64Param()),
	}
}

// file returns the region of a place. A request keeps the region even if it is unregistered
// meanwhile.
func (m *sharedMemory) file(p oip.Place) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.regions[p.Region]; f != nil || p.Size == 0 {
		return f, nil
	}
	return nil, status.Errorf(codes.NotFound, "Unable to find shared memory region: '%s'", p.Region)
}

func (m *sharedMemory) infer(_ context.Context, p *peerServer, req *oip.ModelInferRequest) (*oip.ModelInferResponse, error) {
	r := sharedRequest{in: m.place(req.Inputs[0].Parameters), timeout: req.Parameters["timeout"].GetInt64Param()}
	if len(req.Outputs) > 0 {
		r.out = m.place(req.Outputs[0].Parameters)
	}
	in, err := m.file(r.in)
	if err != nil {
		return nil, err
	}
	out, err := m.file(r.out)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	n := len(m.log)
	m.log = append(m.log, r)
	m.mu.Unlock()
	if m.before != nil {
		if err := m.before(n); err != nil {
			return nil, err
		}
	}
	data := make([]byte, r.in.Size)
	if r.in.Size == 0 {
		data = bytes.Clone(req.RawInputContents[0])
	} else if _, err := in.ReadAt(data, int64(r.in.Offset)); err != nil {
		return nil, err
	}
	number := func(i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(data[i:])) }
	m.mu.Lock()
	m.log[n].first = number(0)
	m.mu.Unlock()
	for i := 0; i < len(data); i += 4 {
		binary.LittleEndian.PutUint32(data[i:], math.Float32bits(2*number(i)))
	}
	resp := &oip.ModelInferResponse{ModelName: "double", Id: req.Id,
		Outputs:           []*oip.ModelInferResponse_InferOutputTensor{{Name: "y", Datatype: "FP32", Shape: req.Inputs[0].Shape}},
		RawOutputContents: [][]byte{data}}
	if r.out.Size > 0 {
		resp.RawOutputContents[0] = nil
		_, err = out.WriteAt(data, int64(r.out.Offset))
	}
	if p.answer != nil {
		p.answer(resp)
	}
	return resp, err
}

// requests returns the requests so far.
func (m *sharedMemory) requests() []sharedRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.log)
}

// forget unregisters everything, as a restart or another client's call does.
func (m *sharedMemory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.regions {
		delete(m.regions, name) // not closed: a request may use it; the collector will
	}
}

func (p *peerServer) SystemSharedMemoryRegister(_ context.Context, req *oip.SystemSharedMemoryRegisterRequest) (*oip.SystemSharedMemoryRegisterResponse, error) {
	m := p.shared
	if m == nil {
		return nil, status.Error(codes.Unimplemented, "Method not found!")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse != nil {
		if err := m.refuse(req); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile("/dev/shm"+req.Key, os.O_RDWR, 0)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "Unable to open shared memory region: '%s'", req.Key)
	}
	m.regions[req.Name] = f
	m.keys = append(m.keys, req.Key)
	return &oip.SystemSharedMemoryRegisterResponse{}, nil
}

func (p *peerServer) SystemSharedMemoryStatus(context.Context, *oip.SystemSharedMemoryStatusRequest) (*oip.SystemSharedMemoryStatusResponse, error) {
	m := p.shared
	if m == nil {
		return nil, status.Error(codes.Unimplemented, "Method not found!")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := &oip.SystemSharedMemoryStatusResponse{Regions: map[string]*oip.SystemSharedMemoryStatusResponse_RegionStatus{}}
	for name := range m.regions {
		out.Regions[name] = &oip.SystemSharedMemoryStatusResponse_RegionStatus{Name: name}
	}
	return out, nil
}

func (p *peerServer) SystemSharedMemoryUnregister(_ context.Context, req *oip.SystemSharedMemoryUnregisterRequest) (*oip.SystemSharedMemoryUnregisterResponse, error) {
	m := p.shared
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy > 0 {
		m.busy--
		return nil, status.Errorf(codes.Internal, "the shared memory region %s is in use", req.Name)
	}
	delete(m.regions, req.Name)
	m.gone = append(m.gone, req.Name)
	return &oip.SystemSharedMemoryUnregisterResponse{}, nil
}
