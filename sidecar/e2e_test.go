package sidecar_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/tensor"
)

var doubling = tensor.Values[float32, float32]("x", "y")

func config(s *sidecartest.Server) sidecar.Config {
	return sidecar.Config{Endpoint: s.Endpoint(), Dialer: s.Dialer(), Model: s.Model()}
}

func ramp(n int) func(func([]float32, error) bool) {
	return func(yield func([]float32, error) bool) {
		for i := range n {
			if !yield([]float32{float32(i)}, nil) {
				return
			}
		}
	}
}

// run sends n records through the model, in order, and returns the first failure.
func run(t *testing.T, n int, cfg sidecar.Config, op async.Config) error {
	t.Helper()
	k := 0
	for y, err := range async.Map(t.Context(), ramp(n), sidecar.NewAsyncFunction(cfg, doubling), op) {
		if err != nil {
			return err
		}
		if len(y) != 1 || y[0] != float32(2*k) {
			t.Fatalf("result %d is %v", k, y)
		}
		k++
	}
	if k != n {
		t.Fatalf("%d results of %d", k, n)
	}
	return nil
}

// gone waits until the server has seen its connections end.
func gone(t *testing.T, s *sidecartest.Server) {
	t.Helper()
	if st, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Connections == 0 }); err != nil {
		t.Fatalf("%v: %+v", err, st)
	}
}

// Over real sockets, with answers out of order: every result, in order, over one connection.
func TestSockets(t *testing.T) {
	cert, pool := certificate(t)
	mutual := grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}))
	client := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}
	for _, c := range []struct {
		name, endpoint string
		options        []grpc.ServerOption
		tls            *tls.Config
	}{
		{"unix", "unix://" + filepath.Join(t.TempDir(), "s.sock"), nil, nil},
		{"tcp", "127.0.0.1:0", nil, nil},
		{"tls", "127.0.0.1:0", []grpc.ServerOption{mutual}, client},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := sidecartest.StartAt(t, sidecartest.Script{Jitter: 2 * time.Millisecond, Seed: 5, Options: c.options}, c.endpoint)
			cfg := sidecar.Config{Endpoint: s.Endpoint(), Model: s.Model(), TLS: c.tls}
			if err := run(t, 5000, cfg, async.Config{}); err != nil {
				t.Fatal(err)
			}
			gone(t, s)
			if st := s.Status(); st.Accepted != 1 || st.PeakRows > 1000 {
				t.Errorf("%+v", st)
			}
			if c.tls != nil {
				// Waiting cannot fix it, so the client does not wait (A77).
				for says, wrong := range map[string]*tls.Config{
					"certificate required":        {RootCAs: pool},
					"signed by unknown authority": {RootCAs: x509.NewCertPool(), Certificates: client.Certificates},
					"other.example":               {RootCAs: pool, Certificates: client.Certificates, ServerName: "other.example"},
					"protocol version":            {RootCAs: pool, Certificates: client.Certificates, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS11},
				} {
					cfg.TLS = wrong
					err := run(t, 1, cfg, async.Config{})
					if !errors.Is(err, sidecar.ErrUntrusted) || !errors.Is(err, sidecar.ErrPermanent) || !strings.Contains(err.Error(), says) {
						t.Errorf("want %q: %v", says, err)
					}
				}
				plain := sidecartest.StartAt(t, sidecartest.Script{}, "127.0.0.1:0")
				cfg.Endpoint, cfg.TLS = plain.Endpoint(), client
				if err := run(t, 1, cfg, async.Config{}); !errors.Is(err, sidecar.ErrUntrusted) || !strings.Contains(err.Error(), "speaks TLS") {
					t.Errorf("a server without TLS: %v", err)
				}
			}
		})
	}
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// 53. The sidecar finds the bad row itself and names it, so 63 results cost one further request.
func TestServerNamesBadRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := 17.0
		s := sidecartest.Start(t, sidecartest.Script{BackendFaults: []mock.Fault{{Kind: mock.BadRow, Row: &bad}}})
		cfg := config(s)
		cfg.Window = 1
		collect := &collector{outcome: map[uint64]error{}}
		c, err := sidecar.NewAsyncFunction(cfg, doubling).Open(t.Context(), async.Subtask{Operator: "op"}, collect)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var calls []async.Call[[]float32]
		for i := range 64 {
			calls = append(calls, async.Call[[]float32]{ID: async.CallID{Entry: uint64(i)}, Record: async.Record[[]float32]{Value: []float32{float32(i)}}})
		}
		c.Call(calls)
		synctest.Wait()
		for i := range uint64(64) {
			err, ok := collect.outcome[i]
			if !ok || (err != nil) != (i == 17) {
				t.Errorf("record %d: %v, %v", i, ok, err)
			}
		}
		if err := collect.outcome[17]; !errors.Is(err, sidecar.ErrBadRecord) || async.VerdictOf(err).Class != async.BadRecord {
			t.Error(err)
		}
		var rows []int
		for _, call := range s.Log() {
			rows = append(rows, call.Rows)
		}
		if !slices.Equal(rows, []int{64, 63}) {
			t.Errorf("requests of %v rows", rows)
		}
	})
}

// collector keeps outcomes. It is read only when all goroutines are blocked.
type collector struct{ outcome map[uint64]error }

func (c *collector) Complete(cs []async.Completion[[]float32]) {
	for _, x := range cs {
		c.outcome[x.ID.Entry] = x.Err
	}
}
func (c *collector) Suspend(error)     {}
func (c *collector) Resume()           {}
func (c *collector) Fail(error)        {}
func (c *collector) ResultsFull() bool { return false }

// Each row of the error table, from a server, through the operator: a held record gets through in
// the end, a transient failure is tried again, and any other is the record's failure.
func TestErrorsThroughOperator(t *testing.T) {
	for _, c := range []struct {
		code     codes.Code
		reason   string
		times    int
		want     error // nil: it goes through
		class    async.Class
		attempts int
	}{
		{codes.ResourceExhausted, oip.ReasonQueueFull, 30, nil, 0, 0},
		{codes.ResourceExhausted, oip.ReasonMemoryPressure, 30, nil, 0, 0},
		{codes.Unavailable, "", 30, nil, 0, 0},
		{codes.Unavailable, oip.ReasonDraining, 30, nil, 0, 0},
		{codes.Unavailable, oip.ReasonModelLoading, 30, nil, 0, 0},
		{codes.ResourceExhausted, oip.ReasonQueueFull, 1e6, sidecar.ErrOverloaded, async.Overload, 0},
		{codes.Unavailable, "", 1e6, sidecar.ErrUnreachable, async.Transport, 0},
		{codes.Internal, oip.ReasonBackendError, 2, nil, 0, 0},
		{codes.Internal, oip.ReasonBackendError, 1e6, sidecar.ErrBackend, async.Backend, 3},
		{codes.Unknown, "", 2, nil, 0, 0},
		{codes.Unknown, "", 1e6, sidecar.ErrBackend, async.Backend, 3},
		{codes.DataLoss, oip.ReasonBadOutput, 1e6, sidecar.ErrBadOutput, async.Backend, 1},
		{codes.DeadlineExceeded, oip.ReasonQueueTimeout, 1e6, sidecar.ErrTimeout, async.Timeout, 1},
		{codes.Canceled, "", 30, nil, 0, 0},
		{codes.Canceled, "", 1e6, sidecar.ErrCancelled, async.Transport, 0},
		{codes.InvalidArgument, oip.ReasonBadTensor, 1e6, sidecar.ErrBadRecord, async.BadRecord, 1},
		{codes.NotFound, oip.ReasonModelNotFound, 1e6, sidecar.ErrModelNotFound, async.Permanent, 1},
		{codes.FailedPrecondition, oip.ReasonVersionMismatch, 1e6, sidecar.ErrModelUnusable, async.Permanent, 1},
		{codes.Unimplemented, oip.ReasonUnsupportedFeature, 1e6, sidecar.ErrUnsupported, async.Permanent, 1},
		{codes.Unauthenticated, "", 1e6, sidecar.ErrUnauthorized, async.Permanent, 1},
		{codes.PermissionDenied, "", 1e6, sidecar.ErrPermanent, async.Permanent, 1},
	} {
		t.Run(fmt.Sprint(c.code, c.reason, c.times), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sidecartest.Start(t, sidecartest.Script{})
				if err := s.Fail(mock.Fault{Times: c.times, Error: backend.Error{Code: c.code, Reason: c.reason, Message: "scripted"}}); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				err := run(t, 1, config(s), async.Config{})
				if c.want == nil {
					if err != nil {
						t.Error(err)
					}
					return
				}
				failed, ok := errors.AsType[*async.RecordError](err)
				if !ok || !errors.Is(err, c.want) || failed.Class != c.class || failed.Attempts != c.attempts {
					t.Errorf("%v; want %v of class %v after %d attempts", err, c.want, c.class, c.attempts)
				}
				if held := c.class == async.Overload || c.class == async.Transport; held != (time.Since(start) >= async.DefaultHold) {
					t.Errorf("failed after %v", time.Since(start))
				}
				synctest.Wait()
				if st := s.Status(); st.Connections != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// 54. A server's queue is far too short for the load: nothing fails.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{QueueRows: 40, Instances: 1, Latency: 3 * time.Millisecond, MaxBatch: 16})
		cfg := config(s)
		cfg.MaxBatch = 16
		if err := run(t, 3000, cfg, async.Config{}); err != nil {
			t.Error(err)
		}
		refused := 0
		for _, call := range s.Log() {
			if call.Reason == oip.ReasonQueueFull {
				refused++
			}
		}
		if refused == 0 {
			t.Error("the queue was never full")
		}
	})
}

// The sidecar is killed and restarted in mid-run, stops gracefully, and loses connections. The
// results are the same as if nothing had happened.
func TestSidecarRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, LoadTime: 50 * time.Millisecond})
		cfg := config(s)
		cfg.MaxBatch = 4
		over := make(chan struct{})
		go func() {
			defer close(over)
			for i := range 9 {
				time.Sleep(170 * time.Millisecond)
				switch i % 3 {
				case 0:
					s.Kill()
				case 1:
					s.Stop()
				case 2:
					s.DropConnections()
					continue
				}
				time.Sleep(500 * time.Millisecond)
				if err := s.Restart(); err != nil {
					t.Error(err)
				}
			}
		}()
		sent, got := 0, 0
		records := func(yield func([]float32, error) bool) {
			for ; ; sent++ {
				select {
				case <-over:
					return
				default:
				}
				if !yield([]float32{float32(sent)}, nil) {
					return
				}
			}
		}
		for y, err := range async.Map(t.Context(), records, sidecar.NewAsyncFunction(cfg, doubling), async.Config{}) {
			if err != nil || y[0] != float32(2*got) {
				t.Fatalf("result %d: %v, %v", got, y, err)
			}
			got++
		}
		<-over
		if got != sent || got < 1000 {
			t.Errorf("%d results of %d records", got, sent)
		}
	})
}

// A sidecar that never comes back ends the run after the hold, with one clear message.
func TestSidecarGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: 5 * time.Millisecond})
		var died time.Time
		go func() {
			time.Sleep(100 * time.Millisecond)
			died = time.Now()
			s.Kill()
		}()
		cfg := config(s)
		cfg.MaxBatch = 1
		err := run(t, 1e5, cfg, async.Config{Hold: 20 * time.Second})
		synctest.Wait()
		if d := time.Since(died); d != 20*time.Second {
			t.Errorf("ended %v after the server", d)
		}
		if !errors.Is(err, async.ErrHold) || !errors.Is(err, sidecar.ErrUnreachable) || async.VerdictOf(err).Class != async.Transport {
			t.Error(err)
		}
		for _, want := range []string{s.Endpoint(), s.Model(), "connection refused", "check that the server runs"} {
			if !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%q is not in %q", want, err)
			}
		}
	})
}

// A timeout handler replaces the answers that the server was too slow for, and cancelled requests
// are cancelled on the server's side.
func TestTimeoutHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := 3.0
		s := sidecartest.Start(t, sidecartest.Script{Faults: []mock.Fault{{Kind: mock.Hang, Row: &slow}}})
		cfg := config(s)
		cfg.MaxBatch = 1
		var got []float32
		for y, err := range async.Map(t.Context(), ramp(6), fallback{sidecar.NewAsyncFunction(cfg, doubling)}, async.Config{Timeout: 2 * time.Second}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, y[0])
		}
		if !slices.Equal(got, []float32{0, 2, 4, -1, 8, 10}) {
			t.Errorf("%v", got)
		}
		synctest.Wait()
		if st := s.Status(); st.Calls != st.Answered {
			t.Errorf("%+v", st)
		}
	})
}

type fallback struct {
	*sidecar.AsyncFunction[[]float32, []float32]
}

func (fallback) OnTimeout(async.Call[[]float32]) (async.Outputs[[]float32], error) {
	return async.One([]float32{-1}), nil
}

// A run that is cancelled leaves nothing on either side.
func TestCancelledRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{})
		s.Block()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			if _, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Blocked == 4 }); err != nil {
				t.Error(err)
			}
			cancel()
		}()
		for _, err := range async.Map(ctx, ramp(5000), sidecar.NewAsyncFunction(config(s), doubling), async.Config{}) {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		synctest.Wait()
		if st := s.Status(); st.Connections != 0 || st.Rows != 0 {
			t.Errorf("%+v", st)
		}
	})
}
