package oip

import "slices"

// The names, as in Triton, of the parameters of an input or a requested output that lies in shared
// memory.
const (
	// SharedMemoryRegion is a string: the name of a registered region.
	SharedMemoryRegion = "shared_memory_region"
	// SharedMemoryOffset is an integer: the number of bytes from the region's beginning. 0 if it is
	// left out.
	SharedMemoryOffset = "shared_memory_offset"
	SharedMemorySize   = "shared_memory_byte_size" // an integer
)

// Place is where a tensor lies in a region of shared memory that the server knows. Offset and Size
// are in bytes. With a size of 0 the tensor travels in the message.
type Place struct {
	Region       string
	Offset, Size int
}

func (p Place) parameters() map[string]*InferParameter {
	number := func(n int) *InferParameter {
		return &InferParameter{ParameterChoice: &InferParameter_Int64Param{Int64Param: int64(n)}}
	}
	return map[string]*InferParameter{
		SharedMemoryRegion: {ParameterChoice: &InferParameter_StringParam{StringParam: p.Region}},
		SharedMemoryOffset: number(p.Offset),
		SharedMemorySize:   number(p.Size),
	}
}

// Share, called after Fill, says which inputs lie in shared memory and which outputs the server
// shall put there. It takes one place for each of the model's inputs and outputs, in the model's
// order. The data of inputs in shared memory do not travel. The next Fill undoes this.
func (r *Request) Share(inputs, outputs []Place) {
	raw, n := r.msg.RawInputContents, 0
	for i, in := range r.msg.Inputs {
		if inputs[i].Size > 0 {
			in.Parameters = inputs[i].parameters()
			continue
		}
		raw[n] = raw[i]
		n++
	}
	clear(raw[n:])
	r.msg.RawInputContents = raw[:n]
	if !slices.ContainsFunc(outputs, func(p Place) bool { return p.Size > 0 }) {
		return
	}
	for i, p := range outputs {
		// Once a request names outputs, the server sends only those.
		out := &ModelInferRequest_InferRequestedOutputTensor{Name: r.sig.Outputs[i].Name}
		if p.Size > 0 {
			out.Parameters = p.parameters()
		}
		r.msg.Outputs = append(r.msg.Outputs, out)
	}
}
