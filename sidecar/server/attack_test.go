package server_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/tensor"
)

// The frames of HTTP/2 that an attacker needs.
const (
	frameData, frameHeaders, frameReset, frameSettings, framePing, frameWindow = 0, 1, 3, 4, 6, 8
	endStream, endHeaders, ack                                                 = 1, 4, 1
)

// attacker is a connection whose HTTP/2 frames are made by hand.
type attacker struct {
	net.Conn
	t       *testing.T
	writing sync.Mutex

	mu      sync.Mutex
	changed sync.Cond
	credit  map[uint32]int // of each stream, and of the connection under 0
	ended   map[uint32]string
	gone    bool
}

// attack connects. window is how much of each answer the server may send at once.
func (r *rig) attack(window uint32) *attacker {
	t := r.t
	t.Helper()
	c, err := r.dial()
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{Conn: c, t: t, credit: map[uint32]int{0: 65535}, ended: map[uint32]string{}}
	a.changed.L = &a.mu
	a.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	a.frame(frameSettings, 0, 0, binary.BigEndian.AppendUint32([]byte{0, 4}, window))
	read := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-read })
	go func() { defer close(read); a.read() }()
	r.attackers.Store(a, true)
	return a
}

func (a *attacker) frame(kind, flags byte, stream uint32, payload []byte) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))[1:]
	b = append(b, kind, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	_, err := a.Write(append(b, payload...))
	return err
}

// read takes the server's frames about windows and about ends of streams.
func (a *attacker) read() {
	header := make([]byte, 9)
	defer a.note(func() { a.gone = true })
	for {
		if _, err := io.ReadFull(a, header); err != nil {
			return
		}
		payload := make([]byte, binary.BigEndian.Uint32(header)>>8)
		if _, err := io.ReadFull(a, payload); err != nil {
			return
		}
		kind, flags, stream := header[3], header[4], binary.BigEndian.Uint32(header[5:])
		switch {
		case kind == frameSettings && flags&ack == 0:
			a.frame(frameSettings, ack, 0, nil)
		case kind == framePing && flags&ack == 0:
			a.frame(framePing, ack, 0, payload)
		case kind == frameWindow:
			a.note(func() { a.credit[stream] += int(binary.BigEndian.Uint32(payload)) })
		case kind == frameReset, kind == frameHeaders && flags&endStream != 0:
			a.note(func() {
				if a.ended[stream] == "" {
					a.ended[stream] = string(payload) + "!"
				}
			})
		}
	}
}

func (a *attacker) note(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	a.changed.Broadcast()
}

// open begins a call of one of the protocol's methods, or of another by its path.
func (a *attacker) open(stream uint32, method string, more ...string) {
	var b []byte
	if !strings.HasPrefix(method, "/") {
		method = "/inference.GRPCInferenceService/" + method
	}
	fields := append([]string{":method", "POST", ":scheme", "http", ":path", method, ":authority", "a",
		"content-type", "application/grpc", "te", "trailers"}, more...)
	for i := 0; i < len(fields); i += 2 { // HPACK, as literals
		b = append(b, 0)
		for _, s := range fields[i : i+2] {
			if b = append(b, byte(min(len(s), 127))); len(s) >= 127 {
				b = protowire.AppendVarint(b, uint64(len(s)-127))
			}
			b = append(b, s...)
		}
	}
	a.mu.Lock()
	a.credit[stream] = 64 << 10
	a.mu.Unlock()
	a.frame(frameHeaders, endHeaders, stream, b)
}

var errOver = errors.New("the call is over")

// send sends data in frames of so many bytes, as far as the windows allow, until the call ends or
// the windows stay closed.
func (a *attacker) send(stream uint32, data []byte, each int) error {
	for len(data) > 0 {
		n := min(each, len(data), 16<<10)
		give := time.AfterFunc(3100*time.Millisecond, func() { a.note(func() {}) })
		began := time.Now()
		a.mu.Lock()
		for !a.gone && a.ended[stream] == "" && min(a.credit[stream], a.credit[0]) < n {
			if time.Since(began) > 3*time.Second {
				a.mu.Unlock()
				return os.ErrDeadlineExceeded
			}
			a.changed.Wait()
		}
		over := a.gone || a.ended[stream] != ""
		a.credit[stream] -= n
		a.credit[0] -= n
		a.mu.Unlock()
		give.Stop()
		if over {
			return errOver
		}
		if err := a.frame(frameData, 0, stream, data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// over reports whether a call has ended.
func (a *attacker) over(stream uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ended[stream] != ""
}

// message is a message on the wire, with its length before it.
func message(zipped byte, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{zipped}, uint32(len(b))), b...)
}

// finish ends what is sent, and waits for the end of the call. It returns the trailers.
func (a *attacker) finish(stream uint32) string {
	a.frame(frameData, endStream, stream, nil)
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.ended[stream] == "" && !a.gone {
		a.changed.Wait()
	}
	return a.ended[stream]
}

// modest returns bounds that are reached quickly.
func modest() server.Config {
	return server.Config{MaxMessageSize: 8 << 20, ReceiveBytes: 16 << 20, QueueBytes: 8 << 20, AnswerBytes: 8 << 20, MaxCalls: 32, MaxConnections: 16,
		QueueTimeout: 200 * time.Millisecond, ReceiveTimeout: 10 * time.Second, WarmUp: []int{}}
}

// under serves on a socket, calls attacks, and returns by how much memory grew at most.
func under(t *testing.T, cfg server.Config, attacks func(r *rig)) (grew int64, r *rig) {
	t.Helper()
	m, err := mock.New(mock.Config{Function: "echo", Inputs: []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{-1}}}})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Models = []server.Model{{Name: "m", Location: "test", Load: func(context.Context) (backend.Model, error) { return m, nil }}}
	srv, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	dir, err := os.MkdirTemp("", "at") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	r = &rig{t: t, srv: srv, lis: bufconn.Listen(1 << 20), model: m, path: path}
	if err := srv.Start(l, r.lis); err != nil {
		t.Fatal(err)
	}
	if err := srv.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	used := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	runtime.GC()
	before, most := used(), int64(0)
	over, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			most = max(most, used())
			select {
			case <-over:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	attacks(r)
	close(over)
	<-watched
	return most - before, r
}

// openAll begins n calls. Streams must be opened in the order of their numbers.
func (a *attacker) openAll(n int, method string, more ...string) {
	for i := range n {
		a.open(uint32(2*i+1), method, more...)
	}
}

// each calls f n times at once.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// oneRow is a request for one row of n zeros, on the wire.
func oneRow(t *testing.T, n int) []byte {
	t.Helper()
	b, err := proto.Marshal(&oip.ModelInferRequest{ModelName: "m", Inputs: []*oip.ModelInferRequest_InferInputTensor{input("x", "FP32", 1, int64(n))},
		RawInputContents: [][]byte{make([]byte, 4*n)}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func zipped(how func(io.Writer) io.WriteCloser, b []byte) []byte {
	var out bytes.Buffer
	w := how(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// typed is a request whose typed contents are these bytes.
func typed(contents []byte) []byte {
	in := protowire.AppendBytes(protowire.AppendTag(nil, 5, protowire.BytesType), contents)
	return protowire.AppendBytes(protowire.AppendTag(nil, 5, protowire.BytesType), in)
}

// TestMemoryUnderAttack: whatever callers do, a server does not take more memory than it states. It
// turns them away at the right door, and afterwards has all its room for others.
func TestMemoryUnderAttack(t *testing.T) {
	const large, smallest = 8<<20 - 64, 1 << 20
	infer := func(send func(a *attacker, stream uint32)) func(*testing.T, *rig) {
		return func(t *testing.T, r *rig) {
			a := r.attack(65535)
			a.openAll(32, "ModelInfer")
			each(32, func(i int) { send(a, uint32(2*i+1)) })
		}
	}
	whole := func(b []byte) func(*testing.T, *rig) {
		b = message(0, b)
		return infer(func(a *attacker, id uint32) {
			if a.send(id, b, 16<<10) == nil {
				a.finish(id)
			}
		})
	}
	squeezed := func(encoding string, how func(io.Writer) io.WriteCloser) func(*testing.T, *rig) {
		return func(t *testing.T, r *rig) {
			b := message(1, zipped(how, oneRow(t, large/4)))
			a := r.attack(65535)
			a.openAll(32, "ModelInfer", "grpc-encoding", encoding)
			each(32, func(i int) {
				id := uint32(2*i + 1)
				if a.send(id, b, 16<<10) == nil {
					a.finish(id)
				}
			})
		}
	}
	gzipped := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	for _, c := range []struct {
		name   string
		change func(*server.Config)
		door   string // the door that must have turned calls away; empty: any or none
		attack func(t *testing.T, r *rig)
	}{
		{"inputs that are empty", nil, "shape", whole(bytes.Repeat([]byte{0x2a, 0}, large/2))},
		{"outputs that are empty", nil, "shape", whole(bytes.Repeat([]byte{0x32, 0}, large/2))},
		{"raw contents that are empty", nil, "shape", whole(bytes.Repeat([]byte{0x3a, 0}, large/2))},
		{"parameters without a name", nil, "shape", whole(bytes.Repeat([]byte{0x22, 0}, large/2))},
		{"dimensions", nil, "shape", whole(append([]byte{0x2a, 0xfa, 0xff, 0xff, 3, 0x1a, 0xf5, 0xff, 0xff, 3}, make([]byte, 8<<20-11)...)[:large])},
		{"strings that are empty", nil, "memory", whole(typed(bytes.Repeat([]byte{0x42, 0}, large/2-16)))},
		{"numbers of one byte", nil, "memory", whole(typed(append(protowire.AppendVarint([]byte{0x1a}, large-64), make([]byte, large-64)...)))},
		{"numbers one by one", nil, "memory", whole(typed(bytes.Repeat([]byte{0x18, 0}, large/2-16)))},
		{"nothing but unknown fields", nil, "", whole(bytes.Repeat([]byte{0xf8, 1, 0}, large/3))},
		{"gzip", nil, "ratio", squeezed("gzip", gzipped)},
		{"deflate", nil, "ratio", squeezed("deflate", func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })},
		{"gzip without a ratio", func(c *server.Config) { c.MaxRatio = 1 << 20 }, "memory", squeezed("gzip", gzipped)},
		{"requests that never end", nil, "memory", func(t *testing.T, r *rig) {
			b := message(0, make([]byte, large))
			a := r.attack(65535)
			a.openAll(32, "ModelInfer")
			each(32, func(i int) { a.send(uint32(2*i+1), b[:large-100], 16<<10) })
		}},
		{"small requests that never end", nil, "memory", func(t *testing.T, r *rig) {
			b := message(0, make([]byte, smallest-100))
			a := r.attack(65535)
			a.openAll(32, "ModelInfer")
			each(32, func(i int) { a.send(uint32(2*i+1), b[:smallest-200], 16) })
		}},
		{"requests of which nothing comes", nil, "", func(t *testing.T, r *rig) {
			a := r.attack(65535)
			a.openAll(32, "ModelInfer")
			each(32, func(i int) { a.send(uint32(2*i+1), binary.BigEndian.AppendUint32([]byte{0}, large), 5) })
		}},
		{"streams and watches with all that their windows take", nil, "call", func(t *testing.T, r *rig) {
			each(8, func(int) {
				a := r.attack(65535)
				for i := range uint32(20) {
					a.open(2*i+1, []string{"ModelStreamInfer", reflectionPath, watchPath}[i%3])
					a.send(2*i+1, append(message(0, nil), message(0, make([]byte, 63<<10))[:60<<10]...), 16)
				}
			})
		}},
		{"requests in crumbs", nil, "frames", func(t *testing.T, r *rig) {
			b := message(0, make([]byte, 63<<10))
			each(8, func(int) {
				a := r.attack(65535)
				for i := range uint32(4) {
					a.open(2*i+1, "ModelInfer")
				}
				for i := range uint32(4) {
					a.send(2*i+1, b[:60<<10], 1)
				}
			})
		}},
		{"requests in the smallest crumbs that are allowed", nil, "", func(t *testing.T, r *rig) {
			b := message(0, make([]byte, 63<<10))
			each(8, func(int) {
				a := r.attack(65535)
				for i := range uint32(4) {
					a.open(2*i+1, "ModelInfer")
					a.send(2*i+1, b[:60<<10], 16)
				}
			})
		}},
		{"calls without a request", nil, "call", func(t *testing.T, r *rig) {
			each(8, func(int) {
				a := r.attack(65535)
				for i := range uint32(500) {
					a.open(2*i+1, "ModelInfer")
				}
			})
			time.Sleep(100 * time.Millisecond)
		}},
		{"headers", nil, "call", func(t *testing.T, r *rig) {
			each(8, func(int) {
				a := r.attack(65535)
				for i := range uint32(100) {
					a.open(2*i+1, "ModelInfer", "a", strings.Repeat("x", 15<<10))
				}
			})
			time.Sleep(100 * time.Millisecond)
		}},
		{"connections", nil, "connection", func(t *testing.T, r *rig) {
			each(300, func(int) { r.attack(65535) })
			time.Sleep(100 * time.Millisecond)
		}},
		{"answers that are not read", nil, "unread", func(t *testing.T, r *rig) {
			b := message(0, oneRow(t, 1<<20))
			a := r.attack(0)
			for i := range uint32(40) {
				a.open(2*i+1, "ModelInfer")
				a.send(2*i+1, b, 16<<10)
				a.frame(frameData, endStream, 2*i+1, nil)
			}
			time.Sleep(500 * time.Millisecond)
		}},
		{"small answers that are not read", nil, "call", func(t *testing.T, r *rig) {
			b := message(0, oneRow(t, 1))
			a := r.attack(0)
			for i := range uint32(500) {
				a.open(2*i+1, "ModelInfer")
				a.send(2*i+1, b, 16<<10)
				a.frame(frameData, endStream, 2*i+1, nil)
			}
			time.Sleep(100 * time.Millisecond)
		}},
		{"answers of a stream that are not read", nil, "unread", func(t *testing.T, r *rig) {
			b := message(0, oneRow(t, 1<<19))
			each(4, func(int) {
				a := r.attack(0)
				a.open(1, "ModelStreamInfer")
				for range 20 {
					a.send(1, b, 16<<10)
				}
			})
			time.Sleep(500 * time.Millisecond)
		}},
		{"other calls", nil, "", func(t *testing.T, r *rig) {
			var b []byte
			for i := range 4 << 10 {
				entry := append(protowire.AppendBytes([]byte{0x0a}, binary.BigEndian.AppendUint16(nil, uint16(0x2020+i%0x5050))), 0x12, 2, 8, 1)
				b = protowire.AppendBytes(append(b, 0x1a), entry)
			}
			b = message(0, b)
			a := r.attack(65535)
			a.openAll(16, "RepositoryModelLoad")
			each(16, func(i int) { // as many parameters as 64 KiB hold
				if a.send(uint32(2*i+1), b, 16<<10) == nil {
					a.finish(uint32(2*i + 1))
				}
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := modest()
			if c.change != nil {
				c.change(&cfg)
			}
			grew, r := under(t, cfg, func(r *rig) { c.attack(t, r) })
			bound := r.srv.RequestMemory()
			t.Logf("memory grew by %d MiB; the bound is %d MiB", grew>>20, bound>>20)
			// Memory that is not collected yet, and the attackers' own, come on top.
			if most := bound + 16<<20; grew > most {
				t.Errorf("memory grew by %d MiB; want at most %d", grew>>20, most>>20)
			}
			figures := r.figures()
			if c.door != "" && figures[`turned_away_total{door="`+c.door+`"}`] == 0 {
				t.Errorf("the door %q has not turned any call away", c.door)
			}
			r.attackers.Range(func(a, _ any) bool { a.(*attacker).Close(); return true })
			var left []string
			for range 1000 { // what they held is returned once the server notices their end
				left = nil
				for name, v := range r.figures() {
					if v != 0 && (name == "calls" || name == "connections" || strings.HasSuffix(name, "_bytes")) {
						left = append(left, fmt.Sprint(name, " ", v))
					}
				}
				if left == nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			resp, err := r.caller().ModelInfer(t.Context(), ask(1))
			if left != nil || err != nil || len(resp.RawOutputContents[0]) != 4 {
				t.Errorf("afterwards %v are taken still, and a request gets %v, %v", left, resp, err)
			}
		})
	}
}
