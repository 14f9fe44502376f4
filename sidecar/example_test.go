package sidecar_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/tensor"
)

// Records of an iterator go through a model, and their results come back in order.
func ExampleNewAsyncFunction() {
	// The test's own sidecar. Its model doubles the one number of a row.
	server, err := sidecartest.New(sidecartest.Script{Model: "double"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	double := sidecar.NewAsyncFunction(sidecar.Config{
		Endpoint: server.Endpoint(), // unix:///run/model.sock, or host:port
		Dialer:   server.Dialer(),   // only because this server is in memory
		Model:    "double",
	}, tensor.Values[float32, float32]("x", "y"))

	records := func(yield func([]float32, error) bool) {
		for i := range 3 {
			if !yield([]float32{float32(i) + 0.5}, nil) {
				return
			}
		}
	}
	for y, err := range async.Map(context.Background(), records, double, async.Config{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(y)
	}
	// Output:
	// [1]
	// [3]
	// [5]
}

// A codec for your own type: it takes the values of each input from the record, and makes the
// result from the outputs and, if needed, the record.
func ExampleNewAsyncFunction_codec() {
	server, err := sidecartest.New(sidecartest.Script{Model: "double"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	price := sidecar.NewAsyncFunction(sidecar.Config{
		Endpoint: server.Endpoint(), Dialer: server.Dialer(), Model: "double",
	}, itemCodec{})

	records := func(yield func(item, error) bool) {
		_ = yield(item{"tea", 3}, nil) && yield(item{"milk", 1.25}, nil)
	}
	for v, err := range async.Map(context.Background(), records, price, async.Config{}) {
		fmt.Println(v, err)
	}
	// Output:
	// tea: 6 <nil>
	// milk: 2.5 <nil>
}

type item struct {
	name string
	cost float32
}

type itemCodec struct{}

type itemRow struct{ x, y int }

func (itemCodec) Bind(sig tensor.Signature) (tensor.RowCodec[item, string], error) {
	x, okX := sig.Input("x")
	y, okY := sig.Output("y")
	if !okX || !okY {
		return nil, fmt.Errorf("the codec takes input x and output y; the model is %s", &sig)
	}
	return itemRow{x, y}, nil
}

func (r itemRow) Encode(dst *tensor.Batch, in item) error {
	return tensor.AppendValues(dst.Column(r.x), []float32{in.cost})
}

func (r itemRow) Decode(in item, src *tensor.Rows, i int) (string, error) {
	return fmt.Sprintf("%s: %v", in.name, src.Output(r.y).Number(i, 0)), nil
}

// An error can be tested for its kind, and has the details.
func ExampleError() {
	server, err := sidecartest.New(sidecartest.Script{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	fn := sidecar.NewAsyncFunction(sidecar.Config{
		Endpoint: server.Endpoint(), Dialer: server.Dialer(), Model: "no-such-model",
	}, tensor.Values[float32, float32]("x", "y"))
	records := func(yield func([]float32, error) bool) { yield([]float32{1}, nil) }
	for _, err := range async.Map(context.Background(), records, fn, async.Config{}) {
		failure, ok := errors.AsType[*sidecar.Error](err)
		fmt.Println(ok, errors.Is(err, sidecar.ErrModelNotFound), failure.Code, failure.Class)
	}
	// Output: true true NOT_FOUND permanent
}
