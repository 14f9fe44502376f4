// Command library runs the digits job through the Go packages, without a job file:
// records from a file, a model on a sidecar, results in a folder, in order.
//
//	go run ./cmd/tensorferry sidecar --listen unix:///tmp/digits.sock \
//	    --model digits=examples/digits/digits.onnx &
//	go run ./examples/library unix:///tmp/digits.sock examples/digits/digits.jsonl /tmp/digits
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
)

func run(ctx context.Context, endpoint, in, out string) error {
	codec := jsoncodec.New(jsoncodec.Mapping{
		Inputs:  map[string]jsoncodec.Input{"pixels": {Field: "pixels"}},
		Outputs: map[string]jsoncodec.Output{"label": {Field: "digit"}},
	})
	classify := sidecar.NewAsyncFunction(sidecar.Config{Endpoint: endpoint, Model: "digits"}, codec)

	j := stream.New("digits", stream.Config{Parallelism: 2})
	records := stream.From(j, file.NewSource(file.SourceConfig[json.RawMessage]{
		Paths: []string{in}, Decode: file.Raw,
	}))
	labels := stream.OrderedWait(records, classify, async.Config{Timeout: time.Second})
	stream.To(labels, file.NewSink(file.SinkConfig[json.RawMessage]{
		Dir: out, Encode: file.RawLine,
	}))
	return j.Run(ctx)
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: library ENDPOINT INPUT.jsonl OUTPUT-FOLDER")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
