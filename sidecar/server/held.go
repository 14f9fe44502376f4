package server

import (
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// About how many bytes an entry takes besides what its caller wrote into it.
const (
	parameterRoom = 128 // its place in a map, and its value, which is a message
	tensorRoom    = 200
	dimensionRoom = 8
)

// held returns about how many bytes of memory a message takes besides the elements of its tensors.
// It counts everything that a caller can make long or repeat. The message waits with its request,
// because the answer needs its names.
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

// unknown returns the size of the fields that the protocol does not have. A message keeps these as
// they came.
func unknown(m proto.Message) int { return len(m.ProtoReflect().GetUnknown()) }
