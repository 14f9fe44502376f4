package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

// serveAt serves model m on listeners, and returns what connects to the n-th of them.
func serveAt(t *testing.T, cfg server.Config, listeners ...net.Listener) func(n int, creds credentials.TransportCredentials) oip.GRPCInferenceServiceClient {
	t.Helper()
	cfg.Models = []server.Model{{Name: "m", Location: "mock:double"}}
	cfg.Backends.Schemes = map[string]backend.Loader{"mock": mock.Loader()}
	srv, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	if err := srv.Start(listeners...); err != nil {
		t.Fatal(err)
	}
	if err := srv.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return func(n int, creds credentials.TransportCredentials) oip.GRPCInferenceServiceClient {
		e, err := endpoint.FromAddr(listeners[n].Addr())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient(e.GRPCTarget(), grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return oip.NewGRPCInferenceServiceClient(conn)
	}
}

func listen(t *testing.T, text string) net.Listener {
	t.Helper()
	if text == "unix" {
		dir, err := os.MkdirTemp("", "who")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		text = "unix://" + dir + "/s"
	}
	e, err := endpoint.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	l, err := e.Listen()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestSharedMemoryIsTheUsersOwn: callers may name objects only if the system says that they are the
// server's user or root. Over TCP no caller may, unless the server was set to let all of them.
func TestSharedMemoryIsTheUsersOwn(t *testing.T) {
	key, _ := object(t, 100)
	register := func(c oip.GRPCInferenceServiceClient) error {
		_, err := c.SystemSharedMemoryRegister(t.Context(), &oip.SystemSharedMemoryRegisterRequest{Name: "r", Key: key, ByteSize: 100})
		if err == nil {
			_, err = c.SystemSharedMemoryUnregister(t.Context(), &oip.SystemSharedMemoryUnregisterRequest{})
		}
		return err
	}
	for _, over := range []bool{false, true} {
		dial := serveAt(t, server.Config{SharedMemoryTCP: over}, listen(t, "unix"), listen(t, "127.0.0.1:0"))
		unix, tcp := dial(0, insecure.NewCredentials()), dial(1, insecure.NewCredentials())
		for _, c := range []struct {
			client oip.GRPCInferenceServiceClient
			user   int // -1: as it is, -2: not known
			says   string
		}{
			{unix, -1, ""},
			{unix, os.Geteuid(), ""},
			{unix, 0, ""},
			{unix, os.Geteuid() + 1, "another user of this machine"},
			{unix, -2, "not known which user"},
			{tcp, -1, "--shared-memory-over-tcp"},
			{tcp, os.Geteuid(), "--shared-memory-over-tcp"},
		} {
			restore := func() {}
			if c.user != -1 {
				restore = server.AsPeer(c.user, c.user >= 0)
			}
			if over && c.client == tcp {
				c.says = ""
			}
			err := register(c.client)
			if d := oip.Parse(err); (err == nil) != (c.says == "") || err != nil && (d.Code != codes.Unimplemented || d.Reason != oip.ReasonUnsupportedFeature || !strings.Contains(d.Message, c.says)) {
				t.Errorf("over TCP %v, user %d: %v; want %q", over, c.user, err, c.says)
			}
			if _, err := c.client.ModelInfer(t.Context(), askShared(1, 0)); c.says != "" && oip.Parse(err).Code != codes.Unimplemented {
				t.Errorf("over TCP %v, user %d: a request: %v", over, c.user, err)
			}
			restore()
		}
	}
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.cert, a.key = a.make(&x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true})
	a.pool.AddCert(a.cert)
	return a
}

// make makes a certificate. The first is the authority's own.
func (a *authority) make(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) issue(name string, dns ...string) tls.Certificate {
	a.t.Helper()
	cert, key := a.make(&x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: name},
		DNSNames: dns, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// TestControllers: the socket or the certificate decides whether a caller may load and unload
// models. That holds whether the server's listeners do TLS or grpc does. All other callers may only
// infer.
func TestControllers(t *testing.T) {
	a := newAuthority(t)
	client := func(cert tls.Certificate) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{cert}})
	}
	secure := &tls.Config{Certificates: []tls.Certificate{a.issue("server")}, ClientCAs: a.pool, ClientAuth: tls.VerifyClientCertIfGiven, NextProtos: []string{"h2"}}
	callers := map[string]credentials.TransportCredentials{
		"unix": insecure.NewCredentials(), "nobody": client(tls.Certificate{}), "ops": client(a.issue("ops")), "other": client(a.issue("other", "deploy.example")),
	}
	for _, grpcs := range []bool{false, true} {
		for _, c := range []struct {
			controllers []string
			may         string
		}{
			{nil, "unix nobody ops other"},
			{[]string{"unix"}, "unix"},
			{[]string{"cert"}, "ops other"},
			{[]string{"unix", "cert:ops"}, "unix ops"},
			{[]string{"cert:deploy.example"}, "other"},
			{[]string{"cert:nobody"}, ""},
		} {
			cfg := server.Config{Explicit: true, Controllers: c.controllers}
			unix, tcp := listen(t, "unix"), listen(t, "127.0.0.1:0")
			listeners := []net.Listener{unix, tls.NewListener(tcp, secure)}
			var dials []func(int, credentials.TransportCredentials) oip.GRPCInferenceServiceClient
			if grpcs {
				tcp.Close()
				tcp = listen(t, "127.0.0.1:0")
				secured := cfg
				secured.Options = []grpc.ServerOption{grpc.Creds(credentials.NewTLS(secure))}
				dials = append(dials, serveAt(t, cfg, unix), serveAt(t, secured, tcp))
			} else {
				both := serveAt(t, cfg, listeners...)
				dials = append(dials, both, func(_ int, creds credentials.TransportCredentials) oip.GRPCInferenceServiceClient {
					return both(1, creds)
				})
			}
			for name, creds := range callers {
				dial := dials[1]
				if name == "unix" {
					dial = dials[0]
				}
				conn := dial(0, creds)
				_, unload := conn.RepositoryModelUnload(t.Context(), &oip.RepositoryModelUnloadRequest{ModelName: "m"})
				_, load := conn.RepositoryModelLoad(t.Context(), &oip.RepositoryModelLoadRequest{ModelName: "m"})
				may := strings.Contains(c.may, name)
				for _, err := range []error{unload, load} {
					if d := oip.Parse(err); (err == nil) != may || err != nil && (d.Code != codes.PermissionDenied || !strings.Contains(d.Message, "--model-control-from")) {
						t.Errorf("TLS of grpc's own %v, for %v: %s: %v", grpcs, c.controllers, name, err)
					}
				}
				if _, err := conn.ModelInfer(context.Background(), ask(1)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
	abstract := listen(t, "unix-abstract:"+rand.Text())
	dial := serveAt(t, server.Config{Explicit: true, Controllers: []string{"unix"}}, abstract)
	for user, code := range map[int]codes.Code{os.Geteuid(): codes.OK, os.Geteuid() + 1: codes.PermissionDenied} {
		restore := server.AsPeer(user, true)
		_, err := dial(0, insecure.NewCredentials()).RepositoryModelLoad(t.Context(), &oip.RepositoryModelLoadRequest{ModelName: "m"})
		if oip.Parse(err).Code != code {
			t.Errorf("on an abstract socket, user %d: %v", user, err)
		}
		restore()
	}
	for _, wrong := range []server.Config{
		{Models: []server.Model{{Name: "m", Location: "x"}}, Controllers: []string{"unix"}},
		{Models: []server.Model{{Name: "m", Location: "x"}}, Explicit: true, Controllers: []string{"cert:"}},
		{Models: []server.Model{{Name: "m", Location: "x"}}, Explicit: true, Controllers: []string{"root"}},
	} {
		if _, err := server.New(wrong); err == nil || !strings.Contains(err.Error(), "Controllers") {
			t.Errorf("%v: %v", wrong.Controllers, err)
		}
	}
}
