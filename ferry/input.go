package ferry

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/async"
)

// most is how many calls the reader hands on at once.
const most = 256

// call is a call that has no answer yet.
type call struct {
	size      int // of its frame
	cancelled bool
}

// input is what came from the client and the operator does not have yet. The connection's reader
// fills it and its loop empties it.
type input struct {
	wake func()

	mu    sync.Mutex
	open  map[uint64]call // by id: each call that has no answer yet
	bytes uint64          // of their frames
	recs  []async.Record[payload]
	ended bool  // END came
	err   error // why nothing more comes
	// The credit. It is zero before WELCOME.
	rows  int
	limit uint64
}

// ruleError is a breach of the protocol.
type ruleError struct{ error }

func (e ruleError) Unwrap() error { return e.error }

func rule(format string, args ...any) error { return ruleError{fmt.Errorf(format, args...)} }

// allow sets the credit.
func (in *input) allow(rows int, bytes uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.rows, in.limit = rows, bytes
}

// put hands calls on. sizes are those of their frames.
func (in *input) put(recs []async.Record[payload], sizes []int) error {
	in.mu.Lock()
	for i := range recs {
		id := uint64(recs[i].Position)
		if _, ok := in.open[id]; ok {
			in.mu.Unlock()
			return rule("CALL with the id %d, which has no answer yet; want another id", id)
		}
		in.open[id] = call{size: sizes[i]}
		in.bytes += uint64(sizes[i])
		if len(in.open) > in.rows || in.bytes > in.limit && len(in.open) > 1 {
			rows, bytes, limit := len(in.open), in.bytes, in.limit
			in.mu.Unlock()
			return rule("%d calls with %d bytes have no answer yet; the credit is %d rows and %d bytes", rows, bytes, in.rows, limit)
		}
	}
	in.recs = append(in.recs, recs...)
	in.mu.Unlock()
	in.wake()
	return nil
}

// cancel notes that the client does not want a result.
func (in *input) cancel(id uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if c, ok := in.open[id]; ok {
		c.cancelled = true
		in.open[id] = c
	}
}

// finish says that nothing more comes. A nil error stands for END.
func (in *input) finish(err error) {
	in.mu.Lock()
	if err == nil {
		in.ended = true
	} else if in.err == nil {
		in.err = err
	}
	in.mu.Unlock()
	in.wake()
}

// take moves calls to the end of recs. ended says that none follow; err says that the connection is
// lost or has broken a rule.
func (in *input) take(recs []async.Record[payload]) (all []async.Record[payload], ended bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	recs = append(recs, in.recs...)
	clear(in.recs)
	in.recs = in.recs[:0]
	return recs, in.ended, in.err
}

// answered forgets a call and returns whether it was cancelled. The caller holds mu.
func (in *input) answered(id uint64) (cancelled bool) {
	c := in.open[id]
	delete(in.open, id)
	in.bytes -= uint64(c.size)
	return c.cancelled
}

// heard is what the reader of a connection has beside its input.
type heard struct {
	br     *bufio.Reader
	in     *input
	pong   func(id uint64)
	frame  func() int // the largest length of a frame; 0: WELCOME was not sent
	memory slab
	recs   []async.Record[payload]
	sizes  []int
}

// run reads frames until the client is gone or breaks a rule, and returns that. It returns nil if
// nothing comes after END. The client may still cancel calls then, and it pings and is pinged.
func (h *heard) run() error {
	ended := false
	for {
		// Calls are handed on together, but never kept while waiting for more.
		if len(h.recs) > 0 && (len(h.recs) == most || h.br.Buffered() < frameSize) {
			if err := h.flush(); err != nil {
				return err
			}
		}
		head, err := readHead(h.br)
		if ended && err == io.EOF {
			return nil
		}
		if err != nil {
			return errors.Join(h.flush(), err)
		}
		limit := h.frame()
		if limit > 0 {
			if err := head.within(limit); err != nil {
				return err
			}
		}
		if head.kind != kindCall && head.size > 0 {
			return rule("a frame of kind %d with a payload of %d bytes; want none", head.kind, head.size)
		}
		switch head.kind {
		case kindCall:
			if limit == 0 {
				return rule("CALL before WELCOME")
			}
			if ended {
				return rule("CALL %d after END", head.id)
			}
			if h.br.Buffered() < head.size {
				if err := h.flush(); err != nil { // the rest may take a while
					return err
				}
			}
			if err := h.call(head); err != nil {
				return err
			}
		case kindCancel:
			if err := h.flush(); err != nil {
				return err
			}
			h.in.cancel(head.id)
		case kindPing:
			h.pong(head.id)
		case kindPong:
		case kindEnd:
			if err := h.flush(); err != nil {
				return err
			}
			ended = true
			h.in.finish(nil)
		default:
			return rule("a frame of kind %d, which no client sends", head.kind)
		}
	}
}

func (h *heard) flush() error {
	if len(h.recs) == 0 {
		return nil
	}
	err := h.in.put(h.recs, h.sizes)
	clear(h.recs)
	h.recs, h.sizes = h.recs[:0], h.sizes[:0]
	return err
}

// call reads the payload of CALL.
func (h *heard) call(head head) error {
	body, err := h.body(head.size)
	if err != nil {
		return err
	}
	r := reader{rest: body}
	key := r.bytes(uint64(r.u32()))
	if r.bad || !utf8.Valid(key) {
		return rule("CALL %d: the key is not whole or is not UTF-8", head.id)
	}
	h.recs = append(h.recs, async.Record[payload]{
		Value: r.rest, Key: string(key), Position: int64(head.id), Time: async.NoTime,
	})
	h.sizes = append(h.sizes, frameSize+head.size)
	return nil
}

// firstPiece is how much memory a frame gets before any of it has come.
const firstPiece = 64 << 10

// body reads n bytes into memory of their own. The memory follows what has come, and not what the
// frame's length says.
func (h *heard) body(n int) ([]byte, error) {
	if n <= firstPiece {
		b := h.memory.take(n)
		_, err := io.ReadFull(h.br, b)
		return b, unexpected(err)
	}
	b := make([]byte, 0, firstPiece)
	for len(b) < n {
		if len(b) == cap(b) {
			b = append(make([]byte, 0, min(2*cap(b), n)), b...)
		}
		got, err := io.ReadFull(h.br, b[len(b):cap(b)])
		b = b[:len(b)+got]
		if err != nil {
			return nil, unexpected(err)
		}
	}
	return b, nil
}

// unexpected: inside of a frame there is no right place for the end.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// patient is a connection whose reads are watched: after a silence it asks the client for a sign of
// life, and after another one it gives up.
type patient struct {
	net.Conn
	silence time.Duration
	ask     func()    // nil: there is no one to ask yet, and until is the end
	until   time.Time // of what must have come before ask is set
}

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	for asked := false; ; asked = true {
		end := p.until
		if p.ask != nil {
			end = time.Now().Add(p.silence)
		}
		_ = p.Conn.SetReadDeadline(end)
		n, err := p.Conn.Read(b)
		t, ok := err.(net.Error)
		switch {
		case n > 0 || !ok || !t.Timeout():
			return n, err
		case p.ask == nil:
			return 0, rule("no HELLO came in time")
		case asked:
			return 0, fmt.Errorf("the client is silent: nothing came for %v, and no answer to PING for %v more", p.silence, p.silence)
		}
		p.ask()
	}
}
