package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/tensorferry/tensorferry/sidecar/endpoint"
)

// Where a caller may be.
const (
	elsewhere  = iota // on another machine, or not known
	inProcess         // in this process, over a listener in memory
	onSocket          // on this machine, over a Unix socket
	onLoopback        // on this machine, over TCP
)

// who is the identity of a caller, as far as the system and the caller's certificate prove it.
type who struct {
	kind  int
	user  int // over a Unix socket, if it is known
	known bool
	// The Unix socket is abstract. Such a socket has no mode, so everybody in its network
	// namespace may connect.
	abstract bool
	cert     *x509.Certificate // the verified certificate of the caller; nil: none
}

// trusted reports whether the caller is the server's own user, or root. Either can do without the
// server all that the server does.
func (w who) trusted() bool { return w.known && (w.user == os.Geteuid() || w.user == 0) }

// peerUser is a variable because tests have only one user.
var peerUser = endpoint.PeerUser

// callerOf returns the caller of a call.
func callerOf(ctx context.Context) (w who) {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return w
	}
	switch p.Addr.Network() {
	case "bufconn":
		w.kind = inProcess
	case "unix":
		w.kind = onSocket
	case "tcp":
		if at, err := netip.ParseAddrPort(p.Addr.String()); err == nil && at.Addr().Unmap().IsLoopback() {
			w.kind = onLoopback
		}
	}
	var state tls.ConnectionState
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		state = info.State
	}
	if l, ok := p.LocalAddr.(localAddr); ok {
		if w.kind == onSocket {
			w.user, w.known = peerUser(l.conn.Conn)
			w.abstract = strings.HasPrefix(l.conn.Conn.LocalAddr().String(), "@")
		}
		for c := l.conn.Conn; c != nil; {
			if t, ok := c.(*tls.Conn); ok {
				state = t.ConnectionState()
				break
			}
			inner, ok := c.(interface{ NetConn() net.Conn })
			if !ok {
				break
			}
			c = inner.NetConn()
		}
	}
	if len(state.VerifiedChains) > 0 {
		w.cert = state.VerifiedChains[0][0]
	}
	return w
}

// The callers that Config.Controllers may name.
const (
	controlUnix = "unix"
	controlCert = "cert"
)

// checkControllers returns an error if a name of Config.Controllers is not known.
func checkControllers(names []string) error {
	for _, n := range names {
		if name, ok := strings.CutPrefix(n, controlCert+":"); n != controlUnix && n != controlCert && (!ok || name == "") {
			return fmt.Errorf("%q may not load models; want unix, cert or cert:NAME", n)
		}
	}
	return nil
}

// mayControl returns nil if the caller may load and unload models, and otherwise why not.
func (s *Server) mayControl(ctx context.Context) *failure {
	if len(s.cfg.Controllers) == 0 {
		return nil
	}
	w := callerOf(ctx)
	for _, n := range s.cfg.Controllers {
		name, named := strings.CutPrefix(n, controlCert+":")
		switch {
		case n == controlUnix && (w.kind == inProcess || w.kind == onSocket && (!w.abstract || w.trusted())):
			return nil
		case n == controlCert && w.cert != nil, named && w.cert != nil && isNamed(w.cert, name):
			return nil
		}
	}
	return &failure{code: codes.PermissionDenied, message: "this caller may not load or unload models; the server allows that only to " +
		strings.Join(s.cfg.Controllers, ", ") + " (--model-control-from)"}
}

// isNamed reports whether a certificate has the name, as its common name, a DNS name or a URI.
func isNamed(c *x509.Certificate, name string) bool {
	if c.Subject.CommonName == name || slices.Contains(c.DNSNames, name) {
		return true
	}
	for _, u := range c.URIs {
		if u.String() == name {
			return true
		}
	}
	return false
}
