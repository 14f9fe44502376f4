package sidecar

import (
	"context"
	"log/slog"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// registrar answers the registration of regions with the result of register.
type registrar struct {
	grpc.ClientConnInterface
	register func() error
}

func (r registrar) Invoke(_ context.Context, method string, _, _ any, _ ...grpc.CallOption) error {
	if method == oip.GRPCInferenceService_SystemSharedMemoryRegister_FullMethodName {
		return r.register()
	}
	return nil
}

// The connection is lost while a ring is being registered. The ring is not used on the next
// connection; a new one is registered.
func TestLossWhileRegistering(t *testing.T) {
	for _, said := range []error{nil, status.Error(codes.Unavailable, "connection lost")} {
		p, _ := sharingPeer(t)
		asked, lose := 0, false
		var s *sharing
		s = &sharing{name: &peerName{endpoint: "e", model: "m"}, log: slog.New(slog.DiscardHandler), slots: 2, slot: minSlot,
			conn: registrar{register: func() error {
				if asked++; lose {
					lose = false
					s.lost() // as the link does, during the registration
					return said
				}
				return nil
			}}}
		var err error
		if s.layout, err = divide(&p.sig, s.slot, 8); err != nil {
			t.Fatal(err)
		}
		s.open(t.Context())
		s.lost()
		lose = true
		if x := s.take(t.Context()); x != nil {
			t.Error("got a slot of a ring that the server does not know")
			s.give(x, true)
		}
		if asked != 2 {
			t.Fatalf("%d registrations; want the first and the one that was lost", asked)
		}
		for range 3 {
			if x := s.take(t.Context()); x == nil || asked != 3 {
				t.Errorf("after %v: slot %v after %d registrations", said, x, asked)
			} else {
				s.give(x, true)
			}
		}
		s.close()
	}
}
