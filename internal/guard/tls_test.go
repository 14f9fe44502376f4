package guard

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// mine implements every interface in a TLS configuration, and misbehaves as the test says.
type mine struct {
	do  func()
	key crypto.Signer
}

func (m mine) Read([]byte) (int, error)                                  { m.do(); return 0, io.EOF }
func (m mine) Write([]byte) (int, error)                                 { m.do(); return 0, io.EOF }
func (m mine) Get(string) (*tls.ClientSessionState, bool)                { m.do(); return nil, false }
func (m mine) Put(string, *tls.ClientSessionState)                       { m.do() }
func (m mine) Public() crypto.PublicKey                                  { return m.key.Public() }
func (m mine) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { m.do(); return nil, io.EOF }

// dumb is a key that does not return its public part.
type dumb struct{ mine }

func (d dumb) Public() crypto.PublicKey { d.do(); return nil }

// A mistake in any user code of a TLS configuration ends the handshake, not the process.
func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"server"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	own := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	with := func(key crypto.PrivateKey) *tls.Certificate {
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	for name, set := range map[string]func(client, server *tls.Config, m mine){
		"Write of KeyLogWriter":     func(client, _ *tls.Config, m mine) { client.KeyLogWriter = m },
		"Get of ClientSessionCache": func(client, _ *tls.Config, m mine) { client.ClientSessionCache = m },
		"Sign of a private key": func(_, server *tls.Config, m mine) {
			server.Certificates = []tls.Certificate{*with(m)}
		},
		"Public of a private key": func(_, server *tls.Config, m mine) {
			server.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return with(dumb{m}), nil }
		},
		"Sign of a private key of the": func(client, server *tls.Config, m mine) {
			server.ClientAuth = tls.RequireAnyClientCert
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return with(m), nil }
		},
		"VerifyConnection": func(client, _ *tls.Config, m mine) {
			client.VerifyConnection = func(tls.ConnectionState) error { m.do(); return nil }
		},
	} {
		for how, do := range map[string]func(){"panic": func() { panic("no") }, "Goexit": runtime.Goexit} {
			client := &tls.Config{ServerName: "server", InsecureSkipVerify: true}
			server := &tls.Config{Certificates: []tls.Certificate{own}}
			set(client, server, mine{do, key})
			var told atomic.Pointer[string]
			broke := func(err error) {
				text := err.Error()
				told.CompareAndSwap(nil, &text)
			}
			a, b := net.Pipe()
			done := make(chan error, 2)
			for _, c := range []*tls.Conn{tls.Client(a, TLS(client, broke)), tls.Server(b, TLS(server, broke))} {
				go func() {
					err := c.HandshakeContext(t.Context())
					if err == nil {
						_, err = c.Read(make([]byte, 1)) // until the other one is closed
					}
					a.Close()
					b.Close()
					done <- err
				}()
			}
			// it is called, but does not end the handshake
			if name == "Get of ClientSessionCache" {
				for told.Load() == nil {
					runtime.Gosched()
				}
				a.Close()
			}
			<-done
			<-done
			if text := told.Load(); text == nil || !strings.Contains(*text, name) {
				t.Errorf("%s, %s: broke was not called", name, how)
			}
		}
	}
	if TLS(nil, nil) != nil {
		t.Error("a nil configuration became a configuration")
	}
}

// Values that crypto/tls uses after the handshake, or never in this version.
func TestTLSOutsideOfHandshakes(t *testing.T) {
	for how, do := range map[string]func(){"panic": func() { panic("no") }, "Goexit": runtime.Goexit} {
		told := 0
		m := mine{do: do}
		c := TLS(&tls.Config{Rand: m, ClientSessionCache: m}, func(error) { told++ })
		if _, err := c.Rand.Read(nil); err == nil {
			t.Errorf("%s in Rand is not an error", how)
		}
		c.ClientSessionCache.Put("", nil)
		if told != 2 {
			t.Errorf("%s: broke was called %d times", how, told)
		}
	}
}
