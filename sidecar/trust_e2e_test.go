package sidecar_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// A server ends the first handshakes with an alert. One about trust or protocol is permanent at the
// first opening, and any other is waited for, as a refused connection is (A77).
func TestAlerts(t *testing.T) {
	for name, c := range map[string]struct {
		alert byte // 0: close_notify
		final bool
	}{
		"handshake failure": {40, true}, "bad certificate": {42, true}, "unsupported certificate": {43, true},
		"revoked certificate": {44, true}, "expired certificate": {45, true}, "unknown certificate": {46, true},
		"unknown certificate authority": {48, true}, "access denied": {49, true},
		"protocol version not supported": {70, true}, "unrecognized name": {112, true},
		"certificate required": {116, true}, "no application protocol": {120, true},
		"internal error": {80, false}, "user canceled": {90, false}, "bad record MAC": {20, false},
		"error decoding message": {50, false}, "alert(200)": {200, false}, "close notify": {0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cert, pool := certificate(t)
				s := sidecartest.Start(t, sidecartest.Script{Options: []grpc.ServerOption{
					grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}}))}})
				cfg := config(s)
				cfg.Endpoint, cfg.TLS = "127.0.0.1:8001", &tls.Config{RootCAs: pool}
				dial, dials := cfg.Dialer, 0
				cfg.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
					if dials++; dials <= 3 {
						return alerting(c.alert), nil
					}
					return dial(ctx, address)
				}
				start := time.Now()
				err := run(t, 10, cfg, async.Config{})
				switch {
				case !c.final:
					if err != nil || dials != 4 {
						t.Errorf("%v, after %d dials", err, dials)
					}
				case !errors.Is(err, sidecar.ErrUntrusted) || !errors.Is(err, sidecar.ErrPermanent) || !strings.Contains(err.Error(), name):
					t.Error(err)
				case dials > 1 || time.Since(start) > time.Second:
					t.Errorf("%d dials in %v", dials, time.Since(start))
				}
			})
		})
	}
}

// alerting returns a connection whose other side answers the first data with an alert, and closes.
func alerting(alert byte) net.Conn {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		far.Read(make([]byte, 16<<10)) // a net.Pipe gives one write at a time
		const fatal = 2
		far.Write([]byte{21, 3, 3, 0, 2, fatal, alert})
	}()
	return near
}
