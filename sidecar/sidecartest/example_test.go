package sidecartest_test

import (
	"context"
	"fmt"
	"log"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// In a test, Start does the same and closes the sidecar at the test's end.
func ExampleNew() {
	s, err := sidecartest.New(sidecartest.Script{Model: "double"})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	if err := s.WaitReady(ctx); err != nil {
		log.Fatal(err)
	}
	if err := s.FailNext(codes.ResourceExhausted, oip.ReasonQueueFull, 1); err != nil {
		log.Fatal(err)
	}
	conn, err := s.Dial()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	client := oip.NewGRPCInferenceServiceClient(conn)
	for range 2 {
		_, err := client.ModelInfer(ctx, &oip.ModelInferRequest{ModelName: "double",
			Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{2, 1},
				Contents: &oip.InferTensorContents{Fp32Contents: []float32{1, 2}}}}})
		fmt.Println("error:", err)
	}
	for _, call := range s.Log() {
		fmt.Println(call.Rows, call.First, call.Code, call.Reason)
	}
	// Output:
	// error: rpc error: code = ResourceExhausted desc = scripted failure
	// error: <nil>
	// 2 [1 2] ResourceExhausted QUEUE_FULL
	// 2 [1 2] OK
}
