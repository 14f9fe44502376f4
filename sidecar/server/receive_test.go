package server

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// otherStream is a stream of a grpc that reads only whole messages.
type otherStream struct{}

func (otherStream) Method() string               { return "m" }
func (otherStream) SetHeader(metadata.MD) error  { return nil }
func (otherStream) SendHeader(metadata.MD) error { return nil }
func (otherStream) SetTrailer(metadata.MD) error { return nil }

// With a version of grpc that cannot read requests in parts, requests are served all the same, and
// one warning is logged.
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

// ending is a stream that only notes its end.
type ending struct {
	arriving
	ended *status.Status
}

func (e *ending) WriteStatus(st *status.Status) error {
	e.ended = st
	return nil
}

// A message that is read just after the stream was ended is not taken.
func TestMessageAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for past, ends := range map[time.Duration]bool{-1: false, 0: true} {
			i, w := &idleness{most: time.Minute}, &ending{}
			r := &receiver{Server: &Server{}, ctx: t.Context(), w: w}
			f, err := i.within(r, func() error {
				time.Sleep(i.most + past)
				synctest.Wait()
				return nil
			})
			if err != nil || (f != nil) != ends || (w.ended != nil) != ends || ends && (r.door != doorIdle || w.ended.Message() != f.message) {
				t.Errorf("after %v: %v, %v; ended with %v", i.most+past, f, err, w.ended)
			}
			i.stop()
		}
	})
}
