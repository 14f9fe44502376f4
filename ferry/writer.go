package ferry

import (
	"net"
	"sync"
	"time"
)

// roomBytes is how many bytes of frames may wait to be written before the operator emits no more.
const roomBytes = 1 << 20

// writer gathers frames and writes them in its own goroutine. While one piece is being written, the
// next one fills. It is safe for concurrent use.
type writer struct {
	conn  net.Conn
	limit time.Duration // within which the other side must take a piece
	freed func()        // called after a piece was written

	mu      sync.Mutex
	changed sync.Cond
	buf     []byte
	ended   bool // nothing follows
	err     error
}

func newWriter(c net.Conn, limit time.Duration, freed func()) *writer {
	w := &writer{conn: c, limit: limit, freed: freed}
	w.changed.L = &w.mu
	return w
}

// add lets fill append frames.
func (w *writer) add(fill func(dst []byte) []byte) {
	w.mu.Lock()
	if w.err == nil && !w.ended {
		w.buf = fill(w.buf)
	}
	w.mu.Unlock()
	w.changed.Broadcast()
}

// frame adds a frame without a payload.
func (w *writer) frame(id uint64, k kind) {
	w.add(func(dst []byte) []byte { return appendHead(dst, id, k, 0) })
}

// await blocks while enough waits to be written. It goes before answers of which a client could ask
// for any number.
func (w *writer) await() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) >= roomBytes && !w.ended && w.err == nil {
		w.changed.Wait()
	}
}

// full reports whether enough waits to be written.
func (w *writer) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.buf) >= roomBytes
}

// end lets run return when everything has been written.
func (w *writer) end() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.changed.Broadcast()
}

// stop discards what was not written, and lets run return.
func (w *writer) stop(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err, w.buf = err, nil
	}
	w.mu.Unlock()
	w.changed.Broadcast()
}

// run writes until end or a failure, which it returns.
func (w *writer) run() error {
	var piece []byte
	for {
		w.mu.Lock()
		for len(w.buf) == 0 && !w.ended && w.err == nil {
			w.changed.Wait()
		}
		if w.err != nil || len(w.buf) == 0 {
			defer w.mu.Unlock()
			return w.err
		}
		piece, w.buf = w.buf, piece[:0]
		w.mu.Unlock()
		w.changed.Broadcast()
		_ = w.conn.SetWriteDeadline(time.Now().Add(w.limit))
		if _, err := w.conn.Write(piece); err != nil {
			w.stop(err)
			return err
		}
		if cap(piece) > 4*roomBytes {
			piece = nil // it held something large
		}
		w.freed()
	}
}
