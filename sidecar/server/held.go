package server

import (
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// What an entry takes beside what its caller wrote into it, in bytes, about.
const (
	parameterRoom = 128 // its place in a map, and its value, which is a message
	tensorRoom    = 200
	dimensionRoom = 8
)

// held returns how many bytes of memory a message takes beside the elements of its tensors, about:
// all that is as long as its caller likes, or comes as often. It waits with its request, since an
// answer names it.
func held(msg *oip.ModelInferRequest) int64 {
	n := len(msg.GetModelName()) + len(msg.GetModelVersion()) + len(msg.GetId()) + unknown(msg) + parametersHeld(msg.GetParameters())
	for _, in := range msg.GetInputs() {
		n += tensorRoom + len(in.GetName()) + len(in.GetDatatype()) + dimensionRoom*len(in.GetShape()) + unknown(in) + parametersHeld(in.GetParameters())
	}
	for _, out := range msg.GetOutputs() {
		n += tensorRoom + len(out.GetName()) + unknown(out) + parametersHeld(out.GetParameters())
	}
	return int64(n)
}

func parametersHeld(ps map[string]*oip.InferParameter) (n int) {
	for name, p := range ps {
		n += parameterRoom + len(name) + len(p.GetStringParam()) + unknown(p)
	}
	return n
}

// unknown is the size of the fields that the protocol has no name for, which a message keeps as
// they came.
func unknown(m proto.Message) int { return len(m.ProtoReflect().GetUnknown()) }
