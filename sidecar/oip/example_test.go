package oip_test

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// A server refuses a request, and its client reads why.
func ExampleParse() {
	err := oip.Error(codes.ResourceExhausted, oip.ReasonQueueFull, "512 rows are waiting, which is the limit",
		oip.WithRetryAfter(200*time.Millisecond), oip.WithMetadata(oip.MetaModel, "digits"))

	d := oip.Parse(err)
	fmt.Println(d.Code, d.Ours(), d.Reason, d.RetryAfter, d.Metadata[oip.MetaModel])
	// Output: ResourceExhausted true QUEUE_FULL 200ms digits
}
