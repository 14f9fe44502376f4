package ferry

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// start runs a ferry in front of a scripted sidecar, until the end of the test.
func start(t *testing.T, script sidecartest.Script, cfg Config) (*Server, *sidecartest.Server) {
	t.Helper()
	sc := sidecartest.Start(t, script)
	if cfg.Allow == nil {
		cfg.Allow = []Target{{Model: sc.Model(), Config: sidecar.Config{Endpoint: sc.Endpoint(), Dialer: sc.Dialer()}}}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		synctest.Wait() // the sidecar sees the end a moment later
		if st := sc.Status(); st.Connections != 0 {
			t.Errorf("connections are left: %+v", st)
		}
	})
	return s, sc
}

// client is the other side of a connection.
type client struct {
	t    *testing.T
	conn net.Conn
	br   *bufio.Reader
}

// frame is one that the client got.
type frame struct {
	head
	body []byte
	says string
}

// dial opens a connection to the ferry.
func dial(t *testing.T, s *Server) *client {
	t.Helper()
	ours, theirs := net.Pipe()
	s.Handle(theirs)
	t.Cleanup(func() { ours.Close() })
	return &client{t: t, conn: ours, br: bufio.NewReader(ours)}
}

// helloFrame is the magic and HELLO. infer is JSON.
func helloFrame(form, infer string) []byte {
	h := hello{Version: 1, Client: "test", Job: "job", Subtask: 1, Parallelism: 2, Form: form, Infer: json.RawMessage(infer)}
	body, err := json.Marshal(h)
	if err != nil {
		panic(err) // infer is not JSON
	}
	return append([]byte(Magic), appendFrame(nil, 0, kindHello, func(dst []byte) []byte { return append(dst, body...) })...)
}

// hello sends the magic and HELLO.
func (c *client) hello(form, infer string) {
	c.t.Helper()
	c.write(helloFrame(form, infer))
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal("writing: ", err)
	}
}

func (c *client) bare(id uint64, k kind) { c.t.Helper(); c.write(appendHead(nil, id, k, 0)) }

// call sends a CALL.
func (c *client) call(id uint64, key string, row []byte) {
	c.t.Helper()
	c.write(appendCall(nil, id, key, row))
}

func appendCall(dst []byte, id uint64, key string, row []byte) []byte {
	return appendFrame(dst, id, kindCall, func(dst []byte) []byte { return append(appendText(dst, key), row...) })
}

// float is the row of the model of the tests.
func float(v float32) []byte { return binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)) }

// next reads a frame. It leaves STATS out.
func (c *client) next() (f frame, err error) {
	for {
		var b [frameSize]byte
		if _, err := io.ReadFull(c.br, b[:]); err != nil {
			return f, err
		}
		all := append(b[:], make([]byte, int(binary.LittleEndian.Uint32(b[:]))-headSize)...)
		if _, err := io.ReadFull(c.br, all[frameSize:]); err != nil {
			return f, err
		}
		f.says, f.body = describe(all), all[frameSize:]
		f.head, _ = readHead(strings.NewReader(string(all)))
		if f.says == "!" {
			return f, fmt.Errorf("the ferry sent a frame that it must not send: % x", all)
		}
		if f.kind != kindStats {
			return f, nil
		}
	}
}

// want reads a frame whose description has the prefix.
func (c *client) want(prefix string) frame {
	c.t.Helper()
	f, err := c.next()
	if err != nil {
		c.t.Fatalf("want %s: %v", prefix, err)
	}
	if !strings.HasPrefix(f.says, prefix) {
		c.t.Fatalf("want %s, got %s", prefix, f.says)
	}
	return f
}

// gone reads until the ferry closes the connection.
func (c *client) gone() {
	c.t.Helper()
	if f, err := c.next(); !errors.Is(err, io.EOF) {
		c.t.Fatalf("want the end, got %s, %v", f.says, err)
	}
}
