package server

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// vetted is a backend's model with what never changes, for which the backend is asked only once.
type vetted struct {
	backend.Model
	sig       tensor.Signature
	instances int
	unwarmed  bool
}

func (v *vetted) Signature() tensor.Signature { return v.sig }
func (v *vetted) Instances() int              { return v.instances }
func (v *vetted) NoWarmUp() bool              { return v.unwarmed }

// maxInstances bounds the instances that a backend may have. Each has a goroutine.
const maxInstances = 1 << 16

// vet asks a model for its signature and its instances, and checks them.
func vet(m backend.Model) (*vetted, error) {
	v := &vetted{Model: m}
	err := guard.Apart("Signature of the backend", func() error {
		v.sig = m.Signature()
		return v.sig.Validate()
	})
	if err == nil {
		err = guard.Apart("Instances of the backend", func() error {
			if v.instances = m.Instances(); v.instances < 1 || v.instances > maxInstances {
				return fmt.Errorf("the backend has %d instances; want 1 to %d", v.instances, maxInstances)
			}
			return nil
		})
	}
	if u, ok := m.(backend.Unwarmed); ok && err == nil {
		err = guard.Apart("NoWarmUp of the backend", func() error {
			v.unwarmed = u.NoWarmUp()
			return nil
		})
	}
	return v, err
}

// broke logs the panic of a backend or of its model, with what as the message, and returns the
// error for the caller. It returns any other error as it is.
func (s *Server) broke(what string, err error) error {
	p, ok := errors.AsType[*guard.Panic](err)
	if !ok {
		return err
	}
	s.cfg.Logger.Error(what, "panic", guard.Brief(p), "stack", string(p.Stack))
	return errors.New(guard.Brief(p))
}

// did says, as the end of a message, that the code panicked or that it ended its goroutine.
func did(p *guard.Panic) string {
	if p.Value == guard.ErrGoexit {
		return "did not return: " + guard.ErrGoexit.Error()
	}
	return fmt.Sprintf("panicked: %v", p.Value)
}

// guarded calls f for a handler, and makes a status of a panic. If functions of users may run in f,
// f runs in a goroutine of its own, which they may end.
func (s *Server) guarded(method string, f func() error) error {
	call := guard.Call
	if s.cfg.Tracer != nil || len(s.cfg.Options) > 0 {
		call = guard.Apart
	}
	err := call(method, f)
	if p, ok := err.(*guard.Panic); ok {
		return s.recovered(p, method)
	}
	return err
}

// recovered makes a status of a handler's panic, which would otherwise end the process.
func (s *Server) recovered(p *guard.Panic, method string) error {
	s.cfg.Logger.Error("a handler panicked", "method", method, "panic", guard.Brief(p), "stack", string(p.Stack))
	return (&failure{code: codes.Internal, reason: oip.ReasonBackendError, message: "the server " + did(p)}).status("", "")
}
