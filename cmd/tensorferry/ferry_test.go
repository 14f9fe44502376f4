package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/credentials/insecure"

	"github.com/tensorferry/tensorferry/ferry"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
)

// ferried is a client of a ferry, written from docs/ferry.md.
type ferried struct {
	t    *testing.T
	conn net.Conn
}

// The kinds of frames that the tests need.
const (
	helloFrame, callFrame, endFrame                                                         = 1, 2, 4
	welcomeFrame, resultFrame, failureFrame, brokenFrame, heldFrame, drainFrame, statsFrame = 16, 17, 18, 19, 20, 23, 24
)

func ferryClient(t *testing.T, conn net.Conn, err error, infer string) *ferried {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &ferried{t, conn}
	if _, err := io.WriteString(conn, ferry.Magic); err != nil {
		t.Fatal(err)
	}
	f.send(0, helloFrame, fmt.Sprintf(`{"version":1,"subtask":0,"parallelism":1,"form":"rows","infer":%s}`, infer))
	return f
}

func (f *ferried) send(id uint64, kind byte, payload string) {
	f.t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, uint32(9+len(payload)))
	b = append(binary.LittleEndian.AppendUint64(b, id), kind)
	if _, err := f.conn.Write(append(b, payload...)); err != nil {
		f.t.Fatal(err)
	}
}

// call sends a row of the model of the tests, which doubles.
func (f *ferried) call(id uint64, v float32) {
	f.t.Helper()
	f.send(id, callFrame, "\x00\x00\x00\x00"+string(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v))))
}

// want reads frames up to one of a kind, which must be the next but for STATS and what passes.
func (f *ferried) want(kind byte, passes ...byte) (id uint64, payload []byte) {
	f.t.Helper()
	for {
		_ = f.conn.SetReadDeadline(time.Now().Add(time.Minute)) // a hang is to end
		var head [13]byte
		if _, err := io.ReadFull(f.conn, head[:]); err != nil {
			f.t.Fatalf("want a frame of kind %d: %v", kind, err)
		}
		payload = make([]byte, binary.LittleEndian.Uint32(head[:])-9)
		if _, err := io.ReadFull(f.conn, payload); err != nil {
			f.t.Fatal(err)
		}
		if got := head[12]; got == kind {
			return binary.LittleEndian.Uint64(head[4:]), payload
		} else if got != statsFrame && !bytes.Contains(passes, head[12:]) {
			f.t.Fatalf("want a frame of kind %d, got %d: %q", kind, got, payload)
		}
	}
}

func (f *ferried) doubles(id uint64, v float32) {
	f.t.Helper()
	f.call(id, v)
	got, row := f.want(resultFrame)
	if x := math.Float32frombits(binary.LittleEndian.Uint32(row)); got != id || x != 2*v {
		f.t.Errorf("call %d has %v, want twice %v; the id is %d", id, x, v, got)
	}
}

func dialEndpoint(t *testing.T, line string) (net.Conn, error) {
	t.Helper()
	_, at, ok := strings.Cut(line, " on ")
	if !ok {
		t.Fatal(line)
	}
	e, err := endpoint.Parse(at)
	if err != nil {
		return nil, err
	}
	return net.Dial(e.Network, e.Address)
}

// TestSidecarFerry: the sidecar's own sockets take both protocols, with TLS too. When it stops, the
// clients of the ferry are asked to go, and what they have sent is answered.
func TestSidecarFerry(t *testing.T) {
	dir := socketDir(t)
	cert, key, certPEM, _ := certificateFiles(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	s := serve(t, runSidecar, 2, "--listen", "unix://"+filepath.Join(dir, "s.sock"), "--listen", "127.0.0.1:0",
		"--model", "model=mock:double", "--tls-cert", cert, "--tls-key", key)
	if err := inferDouble(t, s.grpcAt(0), insecure.NewCredentials()); err != nil {
		t.Error(err)
	}
	conn, err := dialEndpoint(t, s.ready[0])
	f := ferryClient(t, conn, err, `{"model": "model"}`)
	f.want(welcomeFrame)
	f.doubles(1, 21)
	_, at, _ := strings.Cut(s.ready[1], " on ")
	secure, err := tls.Dial("tcp", at, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	g := ferryClient(t, secure, err, `{"model": "model"}`)
	g.want(welcomeFrame)
	g.doubles(7, -3)
	plain, err := net.Dial("tcp", at)
	if err == nil {
		_, _ = io.WriteString(plain, ferry.Magic)
		if n, err := io.Copy(io.Discard, plain); n > 100 || err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("without TLS: %d bytes, %v", n, err)
		}
		plain.Close()
	}
	conn, err = dialEndpoint(t, s.ready[0])
	_, why := ferryClient(t, conn, err, `{"model": "other"}`).want(brokenFrame)
	if !strings.Contains(string(why), "other") {
		t.Errorf("%q", why)
	}

	code := make(chan int, 1)
	go func() { code <- s.stop() }()
	for _, c := range []*ferried{f, g} {
		c.want(drainFrame)
		c.doubles(9, 4) // it was on its way
		c.send(0, endFrame, "")
		c.want(endFrame)
	}
	if c := <-code; c != exitOK {
		t.Errorf("exit code %d: %s", c, s.stderr.String())
	}
}

// TestFerryCommand: a ferry in front of a server, with its metrics, its allow-list and its end.
func TestFerryCommand(t *testing.T) {
	dir := socketDir(t)
	sc := serve(t, runSidecar, 1, "--listen", "unix://"+filepath.Join(dir, "s.sock"), "--model", "model=mock:double", "--ferry-connections", "0")
	conn, err := dialEndpoint(t, sc.ready[0])
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, strings.Repeat(ferry.Magic, 3)) // as long as the preface of HTTP/2
	if n, err := io.Copy(io.Discard, conn); err == nil && n > 100 {
		t.Errorf("--ferry-connections 0: %d bytes, %v", n, err)
	}
	_, at, _ := strings.Cut(sc.ready[0], " on ")
	s := serve(t, runFerry, 2, "--listen", "unix://"+filepath.Join(dir, "f.sock"), "--allow", at+"/model", "--health", "127.0.0.1:0")
	conn, err = dialEndpoint(t, s.ready[0])
	f := ferryClient(t, conn, err, `{"model": "model", "on_error": {"record": "dead_letter"}}`)
	f.want(welcomeFrame)
	f.doubles(1, 8)
	f.send(2, callFrame, "\x00\x00\x00\x00x")
	f.want(failureFrame)
	_, health, _ := strings.Cut(s.ready[1], " on ")
	page := func(path string) (int, string) {
		resp, err := http.Get("http://" + health + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if code, text := page("/health"); code != 200 || text != "READY\n" {
		t.Errorf("%d %s", code, text)
	}
	_, text := page("/metrics")
	for _, want := range []string{
		`tensorferry_ferry_connections{endpoint="` + at + `",model="model"} 1`, `answer="result",endpoint="` + at + `",model="model"} 1`,
		`answer="dead_letter",endpoint="` + at + `",model="model"} 1`, `tensorferry_ferry_requests_total{endpoint="` + at + `",model="model"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	code := make(chan int, 1)
	go func() { code <- s.stop() }()
	f.want(drainFrame)
	f.send(0, endFrame, "")
	f.want(endFrame)
	if c := <-code; c != exitOK {
		t.Errorf("exit code %d: %s", c, s.stderr.String())
	}
}

// TestFerryUsage: what the command refuses, and why.
func TestFerryUsage(t *testing.T) {
	for args, want := range map[string]string{
		"--listen 127.0.0.1:0":                                        "no --allow",
		"--allow 127.0.0.1:1/m":                                       "--listen is missing",
		"--listen 127.0.0.1:0 --allow digits":                         "want SERVER/MODEL",
		"--listen 127.0.0.1:0 --allow host/m":                         "--allow host/m",
		"--listen 0.0.0.0:0 --allow 127.0.0.1:1/m":                    "--plaintext",
		"--listen 127.0.0.1:0 --allow 127.0.0.1:1/m --max-calls 0":    "more than 0",
		"--listen 127.0.0.1:0 --allow 127.0.0.1:1/m --server-ca none": "--server-ca",
		"--listen 127.0.0.1:0 --allow h:1/m --shared-memory 1000000":  "shared memory",
	} {
		var out, stderr safeBuffer
		if code := runFerry(context.Background(), strings.Fields(args), &out, &stderr); code != exitUsage || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: %d, want %q: %s", args, code, want, stderr.String())
		}
	}
}
