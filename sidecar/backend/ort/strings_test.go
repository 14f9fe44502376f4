//go:build cgo && !windows

package ort

import (
	"testing"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/tensor"
)

// TestStringsAreNotMadeUp: a model with strings among its inputs runs only with strings that a
// caller sent, so it is not run when it is loaded or to warm it up. The model may read numbers from
// its strings, and an empty string is not a number. There is no session here, so a run would end
// the test.
func TestStringsAreNotMadeUp(t *testing.T) {
	text := tensor.Spec{Name: "s", DType: tensor.Bytes, Row: tensor.Shape{1}}
	number := tensor.Spec{Name: "x", DType: tensor.FP32, Row: tensor.Shape{1}}
	for _, inputs := range [][]tensor.Spec{{text}, {number, text}} {
		m := &model{sig: tensor.Signature{Model: "m", Batched: true, Inputs: inputs, Outputs: []tensor.Spec{number}}, opts: Options{Instances: 1}}
		if err := m.probe(t.Context()); err != nil {
			t.Errorf("%v: %v", inputs, err)
		}
		if !backend.Unwarmed(m).NoWarmUp() {
			t.Errorf("%v: it is warmed up", inputs)
		}
	}
	if (&model{sig: tensor.Signature{Inputs: []tensor.Spec{number}}}).NoWarmUp() {
		t.Error("a model of numbers is not warmed up")
	}
}
