package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// door is a listener that bounds the connections of all the server's listeners together, and
// watches each connection.
type door struct {
	net.Listener
	s *Server
}

// Accept implements net.Listener. A connection beyond the bound is closed, so that its caller
// notices and tries again. In the system's queue it would only hang.
func (d door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !d.s.connections.try(1) {
			d.s.turnAway(doorConnection)
			d.s.tooMany.Do(func() {
				d.s.cfg.Logger.Warn("a connection was refused: as many as are allowed are open; this is logged once", "max_connections", d.s.cfg.MaxConnections)
			})
			c.Close()
			continue
		}
		return &conn{Conn: c, s: d.s, frames: frames{preface: len(prefaceText)}}, nil
	}
}

// conn is a gRPC connection. It bounds how long a write may take, and into how small frames a
// caller may cut what it sends. It knows the answers that its caller has not read.
type conn struct {
	net.Conn
	s        *Server
	frames   frames // belongs to the goroutine that reads
	closed   sync.Once
	diverted atomic.Bool // it is not gRPC's any more

	mu      sync.Mutex
	answers map[*answered]struct{}
	gone    bool
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.closed.Do(func() {
		c.s.connections.give(1)
		c.mu.Lock()
		left := c.answers
		c.answers, c.gone = nil, true
		c.mu.Unlock()
		for a := range left { // grpc does not return their buffers
			a.release()
		}
	})
	return err
}

// NetConn returns the connection below, for those who ask what it is.
func (c *conn) NetConn() net.Conn { return c.Conn }

// SetDeadline implements net.Conn. gRPC calls it when the handshake is over, also if the connection
// was diverted in it.
func (c *conn) SetDeadline(t time.Time) error {
	if c.diverted.Load() {
		return nil
	}
	return c.Conn.SetDeadline(t)
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.frames.read(p[:n]) {
		c.s.turnAway(doorFrames)
		c.s.cfg.Logger.Warn("a connection was closed because it sends its requests in crumbs: tiny frames, which take far more memory than their bytes", "peer", fmt.Sprint(c.RemoteAddr()))
		c.Close()
		return 0, errCrumbs
	}
	return n, err
}

var errCrumbs = errors.New("sidecar server: the caller sends its requests in crumbs (tiny frames)")

// Write implements net.Conn. A peer that does not read for AnswerTimeout loses the connection.
func (c *conn) Write(p []byte) (int, error) {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(c.s.cfg.AnswerTimeout))
	return c.Conn.Write(p)
}

// localAddr carries the connection to the handlers of its calls.
type localAddr struct {
	net.Addr
	conn *conn
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return localAddr{c.Conn.LocalAddr(), c} }

// prefaceText is what every HTTP/2 connection begins with.
const prefaceText = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Until it is read, each DATA frame of a request costs memory besides its bytes. So a caller may
// send crumbFrames frames of any size. Beyond these its frames must have crumbBytes on average.
const (
	crumbFrames = 4096
	crumbBytes  = 16
	frameCost   = 96 // of a frame in memory, about: its place in grpc's queue, and a buffer
)

// frames follows the HTTP/2 frames that come in, and weighs the DATA frames. It reads nothing else
// of them. If the bytes are not HTTP/2, as when grpc itself does TLS, it allows everything.
type frames struct {
	preface int  // bytes of the preface that are still to come
	blind   bool // the bytes are not HTTP/2
	header  [9]byte
	have    int   // bytes of the header that have come
	skip    int   // bytes of the payload that are still to come
	padded  int   // the size of a frame whose first byte is the size of its padding; 0: none
	owed    int64 // bytes that the frames lack
}

// read takes the bytes that came, and reports whether the frames so far are allowed.
func (f *frames) read(p []byte) bool {
	for len(p) > 0 && !f.blind {
		switch {
		case f.preface > 0:
			n := min(f.preface, len(p))
			at := len(prefaceText) - f.preface
			if string(p[:n]) != prefaceText[at:at+n] {
				f.blind = true
				return true
			}
			f.preface -= n
			p = p[n:]
		case f.padded > 0:
			bytes := f.padded - 1 - int(p[0])
			f.padded = 0
			if !f.weigh(bytes) {
				return false
			}
		case f.skip > 0:
			n := min(f.skip, len(p))
			f.skip -= n
			p = p[n:]
		default:
			n := copy(f.header[f.have:], p)
			f.have += n
			p = p[n:]
			if f.have < len(f.header) {
				return true
			}
			f.have = 0
			size, kind, flags := int(binary.BigEndian.Uint32(f.header[:4])>>8), f.header[3], f.header[4]
			f.skip = size
			const data, endStream, padded = 0, 1, 8
			switch {
			case kind != data || flags&endStream != 0:
			case flags&padded != 0 && size > 0:
				f.padded = size
			default:
				if !f.weigh(size) {
					return false
				}
			}
		}
	}
	return true
}

// weigh counts a frame of so many bytes, without padding, and reports whether it is allowed.
func (f *frames) weigh(bytes int) bool {
	f.owed = max(f.owed+crumbBytes-int64(max(bytes, 0)), 0)
	return f.owed <= crumbFrames*crumbBytes
}

// The doors: each is a bound at which the server turns away connections, requests or answers.
const (
	doorConnection = iota
	doorFrames
	doorCall
	doorIdle
	doorLate
	doorSize
	doorRatio
	doorShape
	doorMemory
	doorUnread
	doors
)

var doorNames = [doors]string{"connection", "frames", "call", "idle", "late", "size", "ratio", "shape", "memory", "unread"}

// turnedAway counts what each door has turned away.
type turnedAway [doors]atomic.Int64

func (s *Server) turnAway(at int) { s.turned[at].Add(1) }

// RequestMemory returns the largest number of bytes of memory that requests can take, whatever
// callers do, with the models that are loaded now. It includes one batch, with the gathered rows,
// for each instance, but not what the models allocate while they run. It is an upper estimate of
// live memory; Go's collector adds what it has not freed yet.
func (s *Server) RequestMemory() int64 {
	c, instances := &s.cfg, int64(0)
	for _, f := range s.repo.all() {
		for _, m := range f.live() {
			instances += int64(m.runner.batcher.instances)
		}
	}
	// A request or an answer that is larger than its bound passes alone.
	largest := int64(c.MaxMessageSize)
	queued := max(c.QueueBytes, largest)
	calls := s.calls.most + s.others.most + s.loads.most + s.streams.most
	return int64(c.MaxConnections)*connectionRoom + calls*callRoom + s.small.most + s.large.most + s.control.most +
		max(c.AnswerBytes, largest) + s.told.most + queued + 2*instances*queued
}
