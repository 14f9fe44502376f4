package endpoint

import (
	"crypto/tls"
	"net"
	"os"
	"runtime"
	"testing"
)

// TestPeerUser: the user at the other end of a Unix socket is known, also behind TLS. For other
// connections no user is known.
func TestPeerUser(t *testing.T) {
	connect := func(e Endpoint) net.Conn {
		l, err := e.Listen()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		c, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { got.Close() })
		return got
	}
	e, _ := unixEndpoint(t)
	unix, tcp := connect(e), connect(Endpoint{"tcp", "127.0.0.1:0"})
	for _, c := range []net.Conn{unix, tls.Server(unix, &tls.Config{})} {
		if uid, ok := PeerUser(c); ok != (runtime.GOOS == "linux") || ok && uid != os.Geteuid() {
			t.Errorf("%T: %d, %v", c, uid, ok)
		}
	}
	for _, c := range []net.Conn{tcp, tls.Server(tcp, &tls.Config{}), nil, struct{ net.Conn }{unix}} {
		if uid, ok := PeerUser(c); ok {
			t.Errorf("%T: %d", c, uid)
		}
	}
}

// TestPrivate: addresses that only this machine can reach are distinguished from others.
func TestPrivate(t *testing.T) {
	for text, want := range map[string]bool{
		"unix:///run/a.sock": true, "unix-abstract:a": true, "127.0.0.1:80": true, "127.9.9.9:80": true, "[::1]:80": true, "localhost:80": true,
		"[::ffff:127.0.0.1]:80": true, ":80": false, "0.0.0.0:80": false, "[::]:80": false, "192.0.2.1:80": false, "[2001:db8::1]:80": false, "example.org:80": false,
		"localhost.example.org:80": false, "[fe80::1%lo]:80": false,
	} {
		e, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Private(); got != want {
			t.Errorf("%s: private %v", text, got)
		}
	}
}
