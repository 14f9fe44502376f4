package sidecar_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// A healthy server that limits the age of its connections, and lets them go gracefully, costs no
// pause, no record and no warning (A74).
func TestConnectionsOfAnAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: 20 * time.Millisecond, Options: []grpc.ServerOption{
			grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 300 * time.Millisecond})}})
		var log logged
		cfg := config(s)
		cfg.NonIdempotent, cfg.Logger = true, log.logger()
		start := time.Now()
		if n := doubled(t, paced(1000, 2*time.Millisecond), cfg, async.Config{}); n != 1000 {
			t.Errorf("%d results", n)
		}
		if d := time.Since(start); d > 2100*time.Millisecond {
			t.Errorf("2 s of records took %v", d)
		}
		if st := s.Status(); st.Accepted < 5 || st.Calls != st.Answered {
			t.Errorf("%+v", st)
		}
		if text := log.String(); strings.Contains(text, "level=WARN") || !strings.Contains(text, "calls go on over a new connection") {
			t.Errorf("the log:\n%s", text)
		}
	})
}

// The log says why a server has ended a connection, even if it had answered nothing.
func TestGoAwayIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{})
		var log logged
		cfg := config(s)
		cfg.Logger = log.logger()
		dial, calm := cfg.Dialer, make(chan net.Conn, 8)
		cfg.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
			c, err := dial(ctx, address)
			if err == nil {
				c = &appended{Conn: c}
				calm <- c
			}
			return c, err
		}
		in := func(yield func([]float32, error) bool) {
			if !yield([]float32{0}, nil) {
				return
			}
			time.Sleep(time.Second)
			(<-calm).(*appended).end(enhanceYourCalm, "too_many_pings")
			time.Sleep(time.Second)
			yield([]float32{1}, nil)
		}
		if n := doubled(t, in, cfg, async.Config{}); n != 2 {
			t.Errorf("%d results", n)
		}
		if text := log.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "ENHANCE_YOUR_CALM") || !strings.Contains(text, "too_many_pings") {
			t.Errorf("the log:\n%s", text)
		}
	})
}

// A connection that is idle for long is left alone: the client sends no pings, which servers count.
func TestNoPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: 20 * time.Minute})
		cfg := config(s)
		dial := cfg.Dialer
		var sent pings
		cfg.Endpoint = "127.0.0.1:8001" // the client takes it for TCP
		cfg.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
			c, err := dial(ctx, address)
			return &counting{Conn: c, pings: &sent}, err
		}
		if err := run(t, 1, cfg, async.Config{Timeout: time.Hour}); err != nil {
			t.Error(err)
		}
		sent.mu.Lock()
		defer sent.mu.Unlock()
		if sent.n > 0 {
			t.Errorf("%d pings that were not answers", sent.n)
		}
	})
}

// logged is a log for concurrent writers.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// appended is a connection on which the peer sends a GOAWAY before the end.
type appended struct {
	net.Conn
	mu   sync.Mutex
	last []byte
}

// enhanceYourCalm is a code of HTTP/2.
const enhanceYourCalm = 0xb

func (c *appended) end(code byte, words string) {
	const goAway = 0x7
	c.mu.Lock()
	c.last = append([]byte{0, 0, byte(8 + len(words)), goAway, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, code}, words...)
	c.mu.Unlock()
	c.SetReadDeadline(time.Now())
}

func (c *appended) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 || err == nil {
		return n, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.last) == 0 {
		return 0, err
	}
	n = copy(b, c.last)
	c.last = c.last[n:]
	return n, nil
}

// counting counts the pings that a client sends. It expects each frame in one write.
type counting struct {
	net.Conn
	pings *pings
}

type pings struct {
	mu sync.Mutex
	n  int
}

func (c *counting) Write(b []byte) (int, error) {
	c.pings.mu.Lock()
	const ping = 0x6
	rest := bytes.TrimPrefix(b, []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	for len(rest) >= 9 {
		// grpc's pings that measure bandwidth follow received data.
		if rest[3] == ping && rest[4]&1 == 0 && !bytes.Equal(rest[9:17], []byte{2, 4, 16, 16, 9, 14, 7, 7}) {
			c.pings.n++
		}
		rest = rest[min(9+int(rest[0])<<16+int(rest[1])<<8+int(rest[2]), len(rest)):]
	}
	c.pings.mu.Unlock()
	return c.Conn.Write(b)
}

// The server lets a connection go, and no new one can be made. Calls that wait for one are held,
// and get back the time that they waited (A41, A73).
func TestGoAwayAndNobodyThere(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"2 s": 2 * time.Second, "the default": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sidecartest.Start(t, sidecartest.Script{Latency: 20 * time.Millisecond, Options: []grpc.ServerOption{
					grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 3 * time.Second})}})
				cfg := config(s)
				dial, start := cfg.Dialer, time.Now()
				var dials atomic.Int32
				cfg.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
					if dials.Add(1) > 1 && time.Since(start) < 18*time.Second {
						<-ctx.Done() // nothing answers
						return nil, ctx.Err()
					}
					return dial(ctx, address)
				}
				if n := doubled(t, paced(3000, 10*time.Millisecond), cfg, async.Config{Timeout: timeout}); n != 3000 {
					t.Errorf("%d results", n)
				}
				if dials.Load() < 2 {
					t.Error("the connection was not let go, so nothing was tested")
				}
			})
		})
	}
}
