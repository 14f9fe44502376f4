package sidecar

import (
	"fmt"
	"slices"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/shm"
	"github.com/tensorferry/tensorferry/tensor"
)

// slotAlign is the alignment of tensors in a slot: a cache line, for the code that reads them.
const slotAlign = 64

// span is a part of a slot.
type span struct{ at, size int }

// layout is how each slot is divided among a model's tensors.
type layout struct {
	rows    int    // the most rows of a request
	bytes   int    // the most bytes of a request's inputs
	inputs  []span // one for each input
	outputs []span // one for each output; empty: the output comes in the answer
	outRow  []int  // bytes of a row; 0: the output comes in the answer
}

// divide divides slots of size bytes for requests of at most rows rows. Inputs without a fixed row
// size share what the others leave, which is at least half of the slot.
func divide(sig *tensor.Signature, size, rows int) (*layout, error) {
	l := &layout{inputs: make([]span, len(sig.Inputs)), outputs: make([]span, len(sig.Outputs)), outRow: make([]int, len(sig.Outputs))}
	inRow := make([]int, len(sig.Inputs))
	fixed, out, open := 0, 0, 0
	for i := range sig.Inputs {
		if inRow[i] = rowBytes(&sig.Inputs[i]); inRow[i] < 0 {
			open++
		} else {
			fixed += inRow[i]
		}
	}
	for i := range sig.Outputs {
		if n := rowBytes(&sig.Outputs[i]); n > 0 {
			l.outRow[i] = n
			out += n
		}
	}
	room := size - slotAlign*(len(sig.Inputs)+len(sig.Outputs))
	shared := room
	if open > 0 {
		shared = room / 2
	}
	fits := func(row int) int {
		if row == 0 {
			return rows
		}
		return min(rows, shared/row)
	}
	if l.rows = fits(fixed + out); l.rows < 1 {
		clear(l.outRow)
		l.rows = fits(fixed)
	}
	if room < slotAlign*open { // at least a cache line for each input without a fixed size
		return nil, fmt.Errorf("a slot of %d bytes is too small for %d inputs and %d outputs", size, len(sig.Inputs), len(sig.Outputs))
	}
	if l.rows < 1 {
		return nil, fmt.Errorf("a row of the model's inputs has %d bytes, and a slot has room for %d", fixed, shared)
	}
	at := 0
	place := func(n int) span {
		s := span{at, n}
		at += (n + slotAlign - 1) / slotAlign * slotAlign
		return s
	}
	for i, n := range inRow {
		if n >= 0 {
			l.inputs[i] = place(n * l.rows)
		}
	}
	for i, n := range l.outRow {
		l.outputs[i] = place(n * l.rows)
	}
	for i, n := range inRow {
		if n < 0 {
			l.inputs[i] = place((size - at - slotAlign*open) / open)
			open--
		}
	}
	for _, s := range l.inputs {
		l.bytes += s.size
	}
	return l, nil
}

// rowBytes returns the size of a row, or -1 if the size is not fixed.
func rowBytes(s *tensor.Spec) int {
	if s.DType == tensor.Bytes || slices.Contains(s.Row, tensor.Dynamic) {
		return -1
	}
	n, err := s.Row.Elements()
	if err != nil || n > 1<<40 {
		return -1
	}
	return int(n) * s.DType.Size()
}

// ring is a region of shared memory that the server knows, divided into equal slots. Its sharing's
// lock guards it.
type ring struct {
	name    string // the region's name on the server
	segment *shm.Segment
	free    []*slot
	users   int  // slots taken
	retired bool // no more slots are taken from it
}

func newRing(name string, segment *shm.Segment, l *layout, size, slots int) *ring {
	r := &ring{name: name, segment: segment}
	for i := range slots {
		base := i * size
		memory := segment.Bytes()[base : base+size : base+size]
		s := &slot{ring: r, layout: l, base: base, outputs: make([][]byte, len(l.outputs))}
		for _, p := range l.inputs {
			s.inputs = append(s.inputs, memory[p.at:p.at+p.size:p.at+p.size])
		}
		s.memory = memory
		s.placeIn, s.placeOut = make([]oip.Place, len(l.inputs)), make([]oip.Place, len(l.outputs))
		r.free = append(r.free, s)
	}
	return r
}

// slot is the memory of one request.
type slot struct {
	ring   *ring
	layout *layout
	base   int // offset in the ring
	memory []byte
	inputs [][]byte // where each column is encoded

	placeIn, placeOut []oip.Place
	outputs           [][]byte // what the request asks the server to fill
}

// share takes tensors out of a filled request: the inputs that lie in the slot, if they have at
// least least bytes together, and likewise the outputs. It reports whether it took any.
func (s *slot) share(req *oip.Request, b *tensor.Batch, least int) bool {
	in, out := 0, 0
	for i := range s.placeIn {
		s.placeIn[i] = oip.Place{}
		if c := b.Column(i); c.Within(s.inputs[i]) {
			n := len(c.Raw())
			s.placeIn[i] = oip.Place{Region: s.ring.name, Offset: s.base + s.layout.inputs[i].at, Size: n}
			in += n
		}
	}
	if in < least {
		clear(s.placeIn)
	}
	for i := range s.placeOut {
		s.placeOut[i], s.outputs[i] = oip.Place{}, nil
		out += s.layout.outRow[i] * b.Rows()
	}
	for i, p := range s.layout.outputs {
		if n := s.layout.outRow[i] * b.Rows(); out >= least && n > 0 && n <= p.size {
			s.placeOut[i] = oip.Place{Region: s.ring.name, Offset: s.base + p.at, Size: n}
			s.outputs[i] = s.memory[p.at : p.at+n : p.at+n]
		}
	}
	if in < least && out < least {
		return false
	}
	req.Share(s.placeIn, s.placeOut)
	return true
}
