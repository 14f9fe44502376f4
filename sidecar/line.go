package sidecar

import (
	"net"
	"slices"
	"sync"
	"time"

	"github.com/tensorferry/tensorferry/internal/brief"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
)

// line is one connection above TLS, so that it sees the HTTP/2 frames. It knows which calls are
// open on it, so that each call is judged by its own connection.
type line struct {
	net.Conn
	raw  net.Conn // the connection beneath TLS
	wire *wire
	made time.Time
	once sync.Once

	trusted sync.Once // done when data arrives: the other side then trusts this one

	mu    sync.Mutex
	scan  frames // what the server sends
	sent  frames // what this side sends
	open  map[uint32]struct{}
	heard time.Time // when data last arrived
	wrote time.Time // when data was last sent
	// since when the open calls wait for a sign of life; zero: no call is open
	quiet   time.Time
	earlier time.Duration // how long earlier calls waited in vain
	doubted bool          // it stayed open although its silence would have allowed a cut
	closed  bool
}

func newLine(c, raw net.Conn, w *wire) *line {
	now := time.Now()
	l := &line{Conn: c, raw: raw, wire: w, made: now, heard: now, open: map[uint32]struct{}{}}
	l.sent.skip = preface
	l.sent.begins = func(kind, _ byte, stream uint32) {
		switch kind {
		case frameHeaders:
			l.opens(stream)
		case frameReset:
			l.ends(stream)
		}
	}
	l.scan.ends = func(kind, flags byte, stream uint32) {
		switch {
		case kind == frameReset, (kind == frameHeaders || kind == frameData) && flags&endStream != 0:
			l.ends(stream)
		case kind == frameGoAway:
			last, _ := l.scan.lastStream()
			for s := range l.open {
				if s > last {
					l.ends(s)
				}
			}
		}
	}
	return l
}

// opens notes that a call has begun, and ends that a call is over. Under l.mu.
func (l *line) opens(stream uint32) {
	if l.open[stream] = struct{}{}; l.quiet.IsZero() {
		l.quiet = time.Now()
	}
}

func (l *line) ends(stream uint32) {
	if delete(l.open, stream); len(l.open) == 0 && !l.quiet.IsZero() {
		l.earlier += time.Since(l.quiet)
		l.quiet = time.Time{}
	}
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
		l.hear(b[:n])
	}
	if err != nil && distrusts(err) {
		// Since TLS 1.3, a server refuses a client's certificate after the handshake.
		l.wire.mu.Lock()
		l.wire.distrust = brief.Error(err)
		l.wire.mu.Unlock()
	}
	return n, err
}

func (l *line) hear(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.doubted {
		l.doubted = false
		l.wire.patience.rewarded(l.silenceNow())
	}
	l.heard = time.Now()
	l.scan.feed(b)
	if l.earlier = 0; len(l.open) > 0 {
		l.quiet = l.heard
	}
}

// Write implements net.Conn.
func (l *line) Write(b []byte) (int, error) {
	l.mu.Lock()
	l.wrote = time.Now()
	l.sent.feed(b)
	l.mu.Unlock()
	return l.Conn.Write(b)
}

// Close implements net.Conn.
func (l *line) Close() error {
	l.once.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.wire.mu.Lock()
		defer l.wire.mu.Unlock()
		if i := slices.Index(l.wire.lines, l); i >= 0 {
			l.wire.lines = slices.Delete(l.wire.lines, i, i+1)
		}
	})
	return l.Conn.Close()
}

// lineAddr is the remote address of a line. It shows on which line a call is.
type lineAddr struct {
	net.Addr
	line *line
}

// RemoteAddr implements net.Conn.
func (l *line) RemoteAddr() net.Addr {
	if a := l.Conn.RemoteAddr(); a != nil {
		return lineAddr{a, l}
	}
	return nil
}

// silence returns how long calls have waited for a sign of life, including earlier calls that
// waited in vain. 0: no call is open.
func (l *line) silence() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.silenceNow()
}

// silenceNow is silence with l.mu held.
func (l *line) silenceNow() time.Duration {
	if l.quiet.IsZero() {
		return 0
	}
	return max(l.earlier+time.Since(l.quiet), 1)
}

// speaks reports whether data has arrived since then, or the line is closed. A closed line is not
// this watcher's concern.
func (l *line) speaks(since time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed || l.heard.After(since)
}

// leaves reports whether the server has sent GOAWAY, so that no further call can be made on the
// line.
func (l *line) leaves() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.scan.gone
}

// hears reports whether the other side's operating system acknowledges what was sent since then.
// Zero: since the last write.
func (l *line) hears(since time.Time) endpoint.Hearing {
	if since.IsZero() {
		l.mu.Lock()
		since = l.wrote
		l.mu.Unlock()
	}
	if l.wire.hears != nil {
		return l.wire.hears(l.raw, since)
	}
	return endpoint.Hears(l.raw, since)
}

// doubt notes that the line was kept although it could have been cut.
func (l *line) doubt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubted = true
}

// cut closes the line. The calls that are open on it fail, and grpc makes a new connection.
func (l *line) cut() { l.raw.Close() }

func (l *line) goAway() (words string, gracefully, fresh bool) {
	if l == nil {
		return "", false, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	words, gracefully = l.scan.goAway()
	return words, gracefully, !l.scan.served && !l.scan.gone
}
