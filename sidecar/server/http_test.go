package server_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

// TestHTTPDoor: an HTTP client that is slow or sends too much loses its connection, and the number
// of connections is bounded.
func TestHTTPDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{})
		l := bufconn.Listen(1 << 20)
		if err := r.srv.StartHTTP(l); err != nil {
			t.Fatal(err)
		}
		dial := func() net.Conn {
			c, err := l.DialContext(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		}
		// until returns after how long the server closes the connection.
		until := func(c net.Conn) time.Duration {
			began := time.Now()
			io.Copy(io.Discard, c)
			return time.Since(began)
		}
		get := func(more string) (int, error) {
			c := dial()
			defer c.Close()
			io.WriteString(c, "GET /health HTTP/1.1\r\nHost: a\r\n"+more)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				return 0, err
			}
			return resp.StatusCode, resp.Body.Close()
		}
		if code, err := get("\r\n"); code != 200 || err != nil {
			t.Error(code, err)
		}
		if code, err := get("A: " + strings.Repeat("x", 64<<10) + "\r\n\r\n"); code != http.StatusRequestHeaderFieldsTooLarge {
			t.Error(code, err)
		}
		slow := dial()
		io.WriteString(slow, "GET /health HTTP/1.1\r\nHost:")
		if d := until(slow); d != 5*time.Second {
			t.Errorf("slow headers: closed after %v", d)
		}
		silent := dial()
		if d := until(silent); d != 5*time.Second {
			t.Errorf("no request: closed after %v", d)
		}
		for range 64 {
			dial()
		}
		synctest.Wait()
		if d := until(dial()); d != 0 {
			t.Errorf("a connection too many is closed after %v", d)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if code, err := get("\r\n"); code != 200 || err != nil {
			t.Errorf("when the others are gone: %d, %v", code, err)
		}
	})
}
