package server_test

import (
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

// TestDivert: a diverted connection is its new owner's. Its deadlines hold, although gRPC clears
// the one of the handshake afterwards, and the owner can ask who is at the other end.
func TestDivert(t *testing.T) {
	type result struct {
		known bool
		err   error
	}
	got := make(chan result, 1)
	l := listen(t, "unix-abstract:"+rand.Text())
	serveAt(t, server.Config{Divert: func(c net.Conn) {
		_, known := endpoint.PeerUser(c)
		_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
		go func() {
			_, err := io.ReadFull(c, make([]byte, 2))
			c.Close()
			got <- result{known, err}
		}()
	}}, l)
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-got:
		if !r.known || !errors.Is(r.err, os.ErrDeadlineExceeded) {
			t.Errorf("%+v", r)
		}
	case <-time.After(5 * time.Second):
		t.Error("the deadline of the owner does not hold")
	}
}
