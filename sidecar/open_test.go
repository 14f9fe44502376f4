package sidecar

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

func openErr(t *testing.T, ctx context.Context, cfg Config) error {
	t.Helper()
	r := newRecorder(t)
	c, err := NewAsyncFunction(cfg, doubling).Open(ctx, r.sub, r)
	if err == nil {
		c.Close()
		t.Fatal("opened")
	}
	if len(r.events) > 0 {
		t.Errorf("events %v", r.events)
	}
	return err
}

// Open waits for failures that may pass, for as long as hold allows, and then returns one clear
// message.
func TestOpenWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.kill()
		start := time.Now()
		err := openErr(t, t.Context(), p.config())
		if d := time.Since(start); d != time.Minute {
			t.Errorf("gave up after %v, want the hold of 1m", d)
		}
		for _, want := range []string{"sidecar memory, model double", "out of reach", "waited 1m0s", "connection refused", "check that the server runs"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in %q", want, err)
			}
		}
		if v := async.VerdictOf(err); !errors.Is(err, ErrUnreachable) || v != (async.Verdict{Class: async.Transport}) {
			t.Errorf("%+v", v)
		}
	})
	// A server comes up, says that it is not ready, and then that it loads the model.
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.kill()
		start := time.Now()
		p.ready = func() (bool, error) { return time.Since(start) > 10*time.Second, nil }
		p.meta = func() error {
			if time.Since(start) < 20*time.Second {
				return oip.Error(codes.Unavailable, oip.ReasonModelLoading, "loading", oip.WithRetryAfter(300*time.Millisecond))
			}
			return nil
		}
		time.AfterFunc(5*time.Second, p.start)
		r := newRecorder(t)
		r.open(p.config())
		if d := time.Since(start); d < 20*time.Second || d > 23*time.Second {
			t.Errorf("open after %v", d)
		}
		r.call(ramp(3)...)
		r.await()
		r.check()
		if _, accepted, _ := p.connections(); accepted != 1 {
			t.Errorf("%d connections", accepted)
		}
	})
	// A server that accepts and never answers.
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		hang := make(chan struct{})
		p.ready = func() (bool, error) { <-hang; return true, nil }
		cfg := p.config()
		cfg.OpenTimeout = 7 * time.Second
		start := time.Now()
		err := openErr(t, t.Context(), cfg)
		close(hang)
		if d := time.Since(start); d != 7*time.Second || !strings.Contains(err.Error(), "no answer") {
			t.Errorf("after %v: %v", d, err)
		}
	})
	// A server that says for ever that it is not ready.
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.ready = func() (bool, error) { return false, nil }
		if err := openErr(t, t.Context(), p.config()); !errors.Is(err, ErrNotReady) {
			t.Error(err)
		}
	})
}

func TestOpenGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.kill()
		cause := errors.New("the job was stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(3*time.Second, func() { cancel(cause) })
		start := time.Now()
		if err := openErr(t, ctx, p.config()); !errors.Is(err, cause) || time.Since(start) != 3*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
	for _, c := range []struct {
		err  error
		want error
	}{
		{oip.Error(codes.NotFound, oip.ReasonModelNotFound, "no model double"), ErrModelNotFound},
		{oip.Error(codes.FailedPrecondition, oip.ReasonModelLoadFailed, "bad file"), ErrModelUnusable},
		{status.Error(codes.Unauthenticated, "who are you"), ErrUnauthorized},
		{status.Error(codes.Unavailable, "Request for unknown model: 'double' is not found"), ErrModelNotFound},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t)
			p.meta = func() error { return c.err }
			start := time.Now()
			err := openErr(t, t.Context(), p.config())
			if !errors.Is(err, c.want) || !errors.Is(err, ErrPermanent) || async.VerdictOf(err).Class != async.Permanent || time.Since(start) != 0 {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
		})
	}
}

// A wrong codec fails at open, and the message shows both sides.
func TestOpenMismatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		for _, c := range []struct {
			codec tensor.Codec[[]int64, []float32]
			want  []string
		}{
			{tensor.Values[int64, float32]("x", "y"), []string{"int64", "x FP32[1]"}},
			{tensor.Values[int64, float32]("pixels", "y"), []string{`"pixels"`, "x FP32[1]"}},
			{panicking{}, []string{"panic in Bind", "x FP32[1]"}},
			{silent{}, []string{"neither", "x FP32[1]"}},
		} {
			_, err := NewAsyncFunction(p.config(), c.codec).Open(t.Context(), newRecorder(t).sub, nothing{})
			if !errors.Is(err, ErrMismatch) || !errors.Is(err, ErrPermanent) {
				t.Errorf("%v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(errText(err), want) {
					t.Errorf("%q is not in %q", want, err)
				}
			}
		}
		synctest.Wait()
		if open, _, _ := p.connections(); open != 0 {
			t.Errorf("%d connections left", open)
		}
	})
}

type nothing struct{}

func (nothing) Complete([]async.Completion[[]float32]) {}
func (nothing) Suspend(error)                          {}
func (nothing) Resume()                                {}
func (nothing) Fail(error)                             {}
func (nothing) ResultsFull() bool                      { return false }

type panicking struct{}

func (panicking) Bind(tensor.Signature) (tensor.RowCodec[[]int64, []float32], error) { panic("oh") }

type silent struct{}

func (silent) Bind(tensor.Signature) (tensor.RowCodec[[]int64, []float32], error) { return nil, nil }

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want []string // parts of the message; nil: valid
	}{
		{Config{Endpoint: "unix:///run/a.sock", Model: "m"}, nil},
		{Config{Endpoint: "localhost:1", Model: "m", TLS: &tls.Config{}, Backoff: Backoff{Jitter: async.Off, Base: time.Minute}}, nil},
		{Config{Endpoint: "anything", Model: "m", Dialer: (&peerServer{}).dial}, nil},
		{Config{}, []string{"endpoint", "no model"}},
		{Config{Endpoint: "unix:///run/a.sock", Model: "m", TLS: &tls.Config{}}, []string{"TLS on the Unix socket"}},
		{Config{Endpoint: "h:1", Model: "m", MaxBatch: -1, Window: 5000, MaxBytes: -2, MaxMessageSize: -3, OpenTimeout: -1},
			[]string{"max batch is -1", "window is 5000", "max bytes is -2", "max message size is -3", "open timeout"}},
		{Config{Endpoint: "h:1", Model: "m", Backoff: Backoff{Base: time.Second, Max: time.Millisecond, Factor: 0.5, Jitter: 1}},
			[]string{"backoff from 1s to 1ms", "factor is 0.5", "jitter is 1"}},
		{Config{Conn: nopConn{}, Dialer: (&peerServer{}).dial, Model: "m"}, []string{"a dialer with a ready connection"}},
	} {
		err := c.cfg.Validate()
		if (err == nil) != (c.want == nil) {
			t.Errorf("%+v: %v", c.cfg, err)
		}
		for _, want := range c.want {
			if !strings.Contains(errText(err), want) {
				t.Errorf("%q is not in %q", want, err)
			}
		}
	}
	cfg, _, err := Config{Endpoint: "h:1", Model: "m"}.resolve()
	if err != nil || cfg.MaxBatch != 256 || cfg.Window != 4 || cfg.MaxBytes != 16<<20 || cfg.MaxMessageSize != 64<<20 ||
		cfg.Backoff != (Backoff{50 * time.Millisecond, 2 * time.Second, 1.6, 0.2}) {
		t.Errorf("defaults: %+v, %v", cfg, err)
	}
	r := newRecorder(t)
	if _, err := NewAsyncFunction(Config{}, doubling).Open(t.Context(), r.sub, r); async.VerdictOf(err).Class != async.Permanent || !errors.Is(err, ErrPermanent) {
		t.Errorf("a wrong configuration is not permanent: %v", err)
	}
}

type nopConn struct{ grpc.ClientConnInterface }
