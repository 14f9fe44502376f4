package server

import (
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// otherStream is a stream of a grpc that reads whole messages alone.
type otherStream struct{}

func (otherStream) Method() string               { return "m" }
func (otherStream) SetHeader(metadata.MD) error  { return nil }
func (otherStream) SendHeader(metadata.MD) error { return nil }
func (otherStream) SetTrailer(metadata.MD) error { return nil }

// With a version of grpc that cannot read in parts requests are served all the same, and that is
// said once.
func TestAnotherVersionOfGrpc(t *testing.T) {
	var log strings.Builder
	s := &Server{cfg: Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}}
	ctx := grpc.NewContextWithServerTransportStream(t.Context(), otherStream{})
	for range 2 {
		read := 0
		err := s.receive(ctx, &call{}, &oip.ModelInferRequest{}, nil, func(msg any) error {
			read++
			msg.(*oip.ModelInferRequest).ModelName = "m"
			return nil
		})
		if err != nil || read != 1 {
			t.Fatalf("%v; read %d times", err, read)
		}
	}
	if strings.Count(log.String(), "cannot be read in parts") != 1 {
		t.Errorf("it logs: %s", log.String())
	}
}
