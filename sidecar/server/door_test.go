package server

import (
	"math/rand/v2"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// TestBudget: the bound is kept, except that a single taker may exceed it.
func TestBudget(t *testing.T) {
	b := &budget{most: 10}
	if !b.try(7) || b.try(4) || !b.try(3) || b.try(1) {
		t.Error("7, 4, 3 and 1 of 10")
	}
	b.give(3)
	b.give(7)
	if !b.try(20) || b.try(1) || b.taken() != 20 {
		t.Error("a large one does not pass alone")
	}
}

// TestFrames: crumbs are refused, however the bytes come in. Whole frames, small messages and the
// last frame of a call, as ordinary callers send them, are allowed.
func TestFrames(t *testing.T) {
	data := func(size int, flags byte) []byte {
		return append([]byte{byte(size >> 16), byte(size >> 8), byte(size), 0, flags, 0, 0, 0, 1}, make([]byte, size)...)
	}
	padded := func(size, padding int) []byte {
		f := data(1+size+padding, 8)
		f[9] = byte(padding)
		return f
	}
	other := append([]byte{0, 0, 1, 1, 4, 0, 0, 0, 1}, 0)
	for _, c := range []struct {
		name    string
		frames  [][]byte
		allowed bool
	}{
		{"crumbs", [][]byte{data(1, 0)}, false},
		{"nothing", [][]byte{data(0, 0)}, false},
		{"crumbs among others", [][]byte{data(1, 0), other, data(15, 0)}, false},
		{"crumbs in padding", [][]byte{padded(1, 15)}, false},
		{"nothing in padding", [][]byte{padded(0, 255)}, false},
		{"messages with padding", [][]byte{padded(30, 200)}, true},
		{"small messages", [][]byte{data(30, 0)}, true},
		{"a prefix of its own", [][]byte{data(5, 0), data(27, 0)}, true},
		{"the last frame of each call", [][]byte{data(0, 1), other}, true},
		{"large ones between", [][]byte{data(1, 0), data(2, 0), data(1000, 0)}, true},
	} {
		wire := []byte(prefaceText)
		for range 3 * crumbFrames {
			for _, f := range c.frames {
				wire = append(wire, f...)
			}
		}
		f := frames{preface: len(prefaceText)}
		ok := true
		for len(wire) > 0 && ok {
			n := min(1+rand.IntN(40), len(wire))
			ok = f.read(wire[:n])
			wire = wire[n:]
		}
		if ok != c.allowed || f.blind {
			t.Errorf("%s: allowed %v, want %v", c.name, ok, c.allowed)
		}
	}
	f := frames{preface: len(prefaceText)}
	if !f.read([]byte("\x16\x03\x01")) || !f.blind || !f.read(data(1, 0)) {
		t.Error("bytes that are not HTTP/2 are refused")
	}
}

// TestScan: the bytes that are counted before a request is decoded are at least what the decoded
// request takes, and not many times that.
func TestScan(t *testing.T) {
	for name, msg := range weighed() {
		wire, err := proto.Marshal(msg)
		if err != nil {
			t.Fatal(err)
		}
		seen, ok := scan(wire)
		if !ok || seen.inputs != len(msg.Inputs) || seen.outputs != len(msg.Outputs) || seen.raws != len(msg.RawInputContents) || seen.dimensions != 2 {
			t.Errorf("%s: %+v, %v", name, seen, ok)
		}
		before := heap()
		const n = 4
		var all []any
		for range n {
			m := &oip.ModelInferRequest{}
			if err := proto.Unmarshal(wire, m); err != nil {
				t.Fatal(err)
			}
			raws, err := oip.RawInputs(m)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, m, raws)
		}
		took := (heap() - before) / n
		runtime.KeepAlive(all)
		if seen.bytes < took || seen.bytes > 6*took+large/4 {
			t.Errorf("%s: %d KiB are counted, and %d taken", name, seen.bytes>>10, took>>10)
		}
		for i := range min(len(wire), 300) { // a part is not a message, or counts less
			if _, ok := scan(wire[:i]); ok && proto.Unmarshal(wire[:i], &oip.ModelInferRequest{}) != nil {
				t.Errorf("%s: the first %d bytes pass", name, i)
			}
		}
	}
	ps := func(n int) map[string]*oip.InferParameter {
		out := map[string]*oip.InferParameter{}
		for i := range n {
			out[string(rune('a'+i))] = &oip.InferParameter{}
		}
		return out
	}
	wire, _ := proto.Marshal(&oip.ModelInferRequest{Parameters: ps(2), Inputs: []*oip.ModelInferRequest_InferInputTensor{{Parameters: ps(3)}},
		Outputs: []*oip.ModelInferRequest_InferRequestedOutputTensor{{Parameters: ps(4)}}})
	if seen, ok := scan(wire); !ok || seen.parameters != 9 {
		t.Errorf("%+v", seen)
	}
	if n := testing.AllocsPerRun(10, func() { scan(wire) }); n != 0 {
		t.Errorf("a scan makes %v allocations", n)
	}
}
