package jsoncodec_test

import (
	"fmt"

	"github.com/tensorferry/tensorferry/tensor"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

// A record goes out as a row of the model's input, and comes back with the model's output.
func Example() {
	sig := tensor.Signature{Model: "digits", Batched: true,
		Inputs:  []tensor.Spec{{Name: "pixels", DType: tensor.FP32, Row: tensor.Shape{4}}},
		Outputs: []tensor.Spec{{Name: "label", DType: tensor.Int64}}}
	codec, err := jsoncodec.New(jsoncodec.Mapping{
		Inputs:  map[string]jsoncodec.Input{"pixels": {Field: "image.data"}},
		Outputs: map[string]jsoncodec.Output{"label": {Field: "digit"}},
	}).Bind(sig)
	if err != nil {
		fmt.Println(err)
		return
	}
	batch := tensor.NewBatch(&sig)
	record := []byte(`{"id": 7.0, "image": {"data": [0, 0.5, 1, 0.25]}}`)
	fmt.Println(codec.Encode(batch, record), batch.EndRow(), batch.Rows())

	rows := tensor.NewRows(&sig)
	fmt.Println(rows.Set(0, tensor.Int64, tensor.Shape{1}, []byte{3, 0, 0, 0, 0, 0, 0, 0}, 1))
	result, err := codec.Decode(record, rows, 0)
	fmt.Println(string(result), err)

	fmt.Println(codec.Encode(batch, []byte(`{"id": 8, "image": {}}`)))
	// Output:
	// <nil> <nil> 1
	// <nil>
	// {"id": 7.0, "image": {"data": [0, 0.5, 1, 0.25]},"digit":3} <nil>
	// field "image.data" is missing; input "pixels" takes FP32[4]: an array of 4 numbers
}
