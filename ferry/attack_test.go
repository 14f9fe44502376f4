package ferry

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// TestUntrusted: a failure on the way to the model server is told to the client, even if it is one
// of the network.
func TestUntrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := func(context.Context, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				_, _ = theirs.Read(make([]byte, 64<<10))
				_, _ = theirs.Write([]byte{21, 3, 3, 0, 2, 2, 40}) // a TLS alert: handshake_failure
				theirs.Close()
			}()
			return ours, nil
		}
		s, _ := start(t, sidecartest.Script{}, Config{Allow: []Target{{Model: "*", Config: sidecar.Config{
			Endpoint: "127.0.0.1:1", TLS: &tls.Config{ServerName: "server"}, Dialer: refuse,
		}}}})
		c := dial(t, s)
		c.hello("rows", infer)
		c.want("BROKEN action=0 class=5")
	})
}

// TestPings: a client that sends PINGs and reads nothing is not read either, once enough waits for
// it.
func TestPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{}, Config{})
		c := dial(t, s)
		c.hello("rows", infer)
		c.want("WELCOME")
		var taken atomic.Int64
		go func() {
			for piece := make([]byte, 0, frameSize); ; {
				n, err := c.conn.Write(appendHead(piece, 1, kindPing, 0))
				if taken.Add(int64(n)); err != nil || taken.Load() > 8*roomBytes {
					return
				}
			}
		}()
		synctest.Wait()
		if n := taken.Load(); n > 3*roomBytes {
			t.Fatalf("the ferry took %d bytes of PINGs from a client that reads nothing", n)
		}
		time.Sleep(DefaultAnswerTimeout)
		synctest.Wait()
		if _, err := c.conn.Write(make([]byte, 1)); err == nil {
			t.Error("the ferry has not given the client up")
		}
	})
}

// TestPingsOfReader: a client that reads gets all PONGs, however many there are.
func TestPingsOfReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{}, Config{})
		c := dial(t, s)
		c.hello("rows", infer)
		c.want("WELCOME")
		const n = 4 * roomBytes / frameSize
		go func() {
			var all []byte
			for id := range uint64(n) {
				all = appendHead(all, id, kindPing, 0)
			}
			_, _ = c.conn.Write(append(all, appendHead(nil, 0, kindEnd, 0)...))
		}()
		time.Sleep(time.Second)
		for id := range uint64(n) {
			if f := c.want("PONG"); f.id != id {
				t.Fatalf("%s, want %d", f.says, id)
			}
		}
		c.want("END")
	})
}

// TestShortTimeout: WELCOME never says 0, which means none, for a timeout.
func TestShortTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{}, Config{})
		c := dial(t, s)
		c.hello("rows", `{"model": "model", "timeout": "1500us", "hold": "100us"}`)
		c.want(`WELCOME version=1 rows=1000 bytes=67108864 frame=67108864 timeout=2 hold=1 `)
	})
}

// TestSmallFrames: a frame beyond the limit in WELCOME breaks a rule, also if a HELLO may be
// longer.
func TestSmallFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{}, Config{MaxFrame: 100})
		c := dial(t, s)
		c.hello("rows", infer)
		c.want("WELCOME")
		go c.conn.Write(appendCall(nil, 1, "", make([]byte, 200)))
		c.want(`BROKEN action=0 class=5 attempts=0 code="INVALID_ARGUMENT"`)
	})
}

// TestAfterEnd: END says that no call follows. Everything else goes on until the last answer.
func TestAfterEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{Latency: 100 * time.Second}, Config{})
		c := dial(t, s)
		c.hello("rows", `{"model": "model", "timeout": "10m"}`)
		c.want("WELCOME")
		c.call(1, "", float(1))
		c.bare(0, kindEnd)
		c.bare(7, kindPing)
		c.want("PONG id=7")
		c.bare(1, kindCancel)
		for range 3 {
			c.want("PING id=0")
			c.bare(0, kindPong)
		}
		c.want("CANCELLED id=1")
		c.want("END")
		c.gone()

		late := dial(t, s)
		late.hello("rows", `{"model": "model", "timeout": "10m"}`)
		late.want("WELCOME")
		late.call(1, "", float(1))
		late.bare(0, kindEnd)
		late.call(2, "", float(1))
		if f := late.want("BROKEN action=0 class=5"); !strings.Contains(f.says, "CALL 2 after END") {
			t.Error(f.says)
		}
	})
}

// TestManyFaults: neither the client nor the log gets more than 16 KiB about a HELLO, however much
// is wrong with it.
func TestManyFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s, _ := start(t, sidecartest.Script{}, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		c := dial(t, s)
		var keys strings.Builder
		for i := range 4000 {
			fmt.Fprintf(&keys, `"k%d": 1, `, i)
		}
		c.hello("rows", "{"+keys.String()+`"model": "model"}`)
		if f := c.want("BROKEN"); len(f.body) > 17<<10 {
			t.Errorf("BROKEN has %d bytes", len(f.body))
		}
		c.conn.Close()
		s.Close()
		if log.Len() > 20<<10 {
			t.Errorf("the log has %d bytes", log.Len())
		}
	})
}

// TestLinger: a connection stays open for what a client sends before it reads the end. Otherwise
// the system would discard what the client has not read. The pipe has no CloseWrite, as TLS.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{}, Config{})
		c := dial(t, s)
		c.hello("rows", infer)
		c.want("WELCOME")
		c.bare(1, kindResult)
		c.want("BROKEN")
		synctest.Wait()
		c.call(1, "", float(1))
		c.conn.Close()
	})
}

// TestMetricsOfEnded: the counters of connections that are over stay, and their gauges do not.
func TestMetricsOfEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sc := start(t, sidecartest.Script{Latency: time.Second}, Config{})
		ended, lost := dial(t, s), dial(t, s)
		for _, c := range []*client{ended, lost} {
			c.hello("rows", infer)
			c.want("WELCOME")
			c.call(1, "", float(1))
		}
		ended.bare(0, kindEnd)
		ended.want("RESULT id=1")
		ended.want("END")
		ended.conn.Close()
		lost.want("RESULT id=1")
		lost.call(2, "", float(1))
		synctest.Wait()
		lost.conn.Close()
		synctest.Wait()
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		of := `endpoint="` + sc.Endpoint() + `",model="model"} `
		for _, want := range []string{
			"connections{" + of + "0", "queued_records{" + of + "0", "in_flight_calls{" + of + "0", "requests_total{" + of + "3",
			`answers_total{answer="result",` + of + "2", "latency_seconds_count{" + of + "2",
		} {
			if !strings.Contains(w.Body.String(), "tensorferry_ferry_"+want+"\n") {
				t.Errorf("no %s in\n%s", want, w.Body)
			}
		}
	})
}

// TestFullTable: a listener that cannot accept because too many files are open is asked again.
func TestFullTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{}, Config{})
		ours, theirs := net.Pipe()
		defer ours.Close()
		l := &crowded{conn: make(chan net.Conn, 1), over: make(chan struct{})}
		l.conn <- theirs
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		if _, err := ours.Write([]byte("GET / HTTP/1.1")); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// crowded is a listener that fails a few times.
type crowded struct {
	asked int
	conn  chan net.Conn
	over  chan struct{}
}

func (l *crowded) Accept() (net.Conn, error) {
	if l.asked++; l.asked <= 3 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l *crowded) Close() error   { close(l.over); return nil }
func (l *crowded) Addr() net.Addr { return &net.UnixAddr{} }

// TestWaiting: RESUMED follows HELD, even if the wait ends at the moment at which HELD is sent.
func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{}, Config{})
		for range 2000 {
			ours, theirs := net.Pipe()
			c := s.newConnection(theirs)
			over := c.waiting()
			time.Sleep(patience)
			over()
			c.out.frame(0, kindWelcome)
			synctest.Wait()
			held := false
			for r := bytes.NewReader(c.out.buf); r.Len() > 0; {
				h, err := readHead(r)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = r.Seek(int64(h.size), io.SeekCurrent)
				if h.kind == kindWelcome && (held || r.Len() > 0) {
					t.Fatal("the client stays held")
				}
				held = h.kind == kindHeld
			}
			ours.Close()
			theirs.Close()
		}
	})
}
