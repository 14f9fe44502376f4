package sidecar

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/tensorferry/tensorferry/internal/brief"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
)

// wire is what a channel knows of its connections beneath grpc, which keeps it to itself: when
// something arrived last, why the other side lets a connection go, and why one could not be
// trusted. There is one connection, and while a server lets one go, a second.
type wire struct {
	mu       sync.Mutex
	lines    []*line // that are open, the oldest first
	last     *line   // the newest that there was, and
	before   *line   // the one before it
	distrust error   // why the newest handshake failed, if another would fail too
}

// line is one connection, as HTTP/2 sees it: above TLS.
type line struct {
	net.Conn
	raw   net.Conn // beneath TLS
	wire  *wire
	heard atomic.Int64 // when something arrived last, since epoch
	once  sync.Once

	trusted sync.Once // something has come, so the other side trusts this one as well

	mu   sync.Mutex
	scan frames
}

// epoch makes times that cost no allocation.
var epoch = time.Now()

// watched are credentials whose connections a wire knows of.
type watched struct {
	credentials.TransportCredentials
	wire *wire
}

// ClientHandshake implements credentials.TransportCredentials.
func (w watched) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, raw)
	w.wire.mu.Lock()
	defer w.wire.mu.Unlock()
	if err != nil {
		if w.wire.distrust = nil; distrusts(err) {
			w.wire.distrust = brief.Error(err)
		}
		return nil, nil, err
	}
	l := &line{Conn: c, raw: raw, wire: w.wire}
	l.heard.Store(int64(time.Since(epoch)))
	w.wire.lines, w.wire.before, w.wire.last = append(w.wire.lines, l), w.wire.last, l
	return l, info, nil
}

// Clone implements credentials.TransportCredentials.
func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.wire}
}

// Read implements net.Conn.
func (l *line) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 {
		l.trusted.Do(func() {
			l.wire.mu.Lock()
			defer l.wire.mu.Unlock()
			l.wire.distrust = nil
		})
		l.heard.Store(int64(time.Since(epoch)))
		l.mu.Lock()
		l.scan.feed(b[:n])
		l.mu.Unlock()
	}
	if err != nil && distrusts(err) {
		// Since TLS 1.3 a server refuses a certificate after the handshake.
		l.wire.mu.Lock()
		l.wire.distrust = brief.Error(err)
		l.wire.mu.Unlock()
	}
	return n, err
}

// Close implements net.Conn.
func (l *line) Close() error {
	l.once.Do(func() {
		l.wire.mu.Lock()
		defer l.wire.mu.Unlock()
		if i := slices.Index(l.wire.lines, l); i >= 0 {
			l.wire.lines = slices.Delete(l.wire.lines, i, i+1)
		}
	})
	return l.Conn.Close()
}

// heardAt is when something arrived last on the newest connection; zero: there is none.
func (w *wire) heardAt() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lines) == 0 {
		return time.Time{}
	}
	return epoch.Add(time.Duration(w.lines[len(w.lines)-1].heard.Load()))
}

// hears reports whether the other side's system acknowledges what was sent since then.
func (w *wire) hears(since time.Time) endpoint.Hearing {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lines) == 0 {
		return endpoint.Unknown
	}
	return endpoint.Hears(w.lines[len(w.lines)-1].raw, since)
}

// cut closes all connections, so that grpc makes a new one.
func (w *wire) cut() {
	w.mu.Lock()
	lines := slices.Clone(w.lines)
	w.mu.Unlock()
	for _, l := range lines {
		l.raw.Close()
	}
}

// letGo says how the other side has let the newest connection go on which anything was said: in
// words, empty if it did not; and whether as a server does that is well, and has served on it.
func (w *wire) letGo() (words string, gracefully bool) {
	if w == nil {
		return "", false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	words, gracefully, fresh := w.last.goAway()
	if fresh { // it has come to nothing yet
		words, gracefully, _ = w.before.goAway()
	}
	return words, gracefully
}

func (l *line) goAway() (words string, gracefully, fresh bool) {
	if l == nil {
		return "", false, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	words, gracefully = l.scan.goAway()
	return words, gracefully, !l.scan.served && !l.scan.gone
}

// distrusted is why the last connection could not be trusted, if that is why there is none.
func (w *wire) distrusted() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.distrust
}

// frames follows the frames of HTTP/2 in what a server sends, as far as the heads of them.
type frames struct {
	head   [9]byte
	n      int // bytes of the head that are there
	left   int // bytes of the frame that are to come
	served bool
	gone   bool
	words  []byte // of the newest GOAWAY
}

// Frames that are of interest, and how much of one is kept.
const (
	frameHeaders = 0x1
	frameGoAway  = 0x7
	maxGoAway    = 8 + 256
)

func (f *frames) feed(b []byte) {
	for len(b) > 0 {
		if f.n < len(f.head) {
			n := copy(f.head[f.n:], b)
			f.n, b = f.n+n, b[n:]
			if f.n < len(f.head) {
				return
			}
			f.left = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
			switch f.head[3] {
			case frameHeaders:
				f.served = true
			case frameGoAway:
				f.words = f.words[:0]
			}
		}
		n := min(f.left, len(b))
		if f.head[3] == frameGoAway {
			f.words = append(f.words, b[:min(n, maxGoAway-len(f.words))]...)
		}
		if f.left, b = f.left-n, b[n:]; f.left == 0 {
			f.gone = f.gone || f.head[3] == frameGoAway
			f.n = 0
		}
	}
}

// codes of HTTP/2, by their numbers.
var goAwayCodes = [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
	"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}

// goAway is what the server's last GOAWAY says, and whether it was one of a server that is well.
func (f *frames) goAway() (words string, gracefully bool) {
	if !f.gone || len(f.words) < 8 {
		return "", false
	}
	code := binary.BigEndian.Uint32(f.words[4:])
	name := fmt.Sprintf("code %d", code)
	if int64(code) < int64(len(goAwayCodes)) {
		name = goAwayCodes[code]
	}
	if text := f.words[8:]; len(text) > 0 {
		name += fmt.Sprintf(" (%q)", text)
	}
	return "the server has sent GOAWAY " + name, code == 0 && f.served
}
