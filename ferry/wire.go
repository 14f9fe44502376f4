package ferry

import (
	"encoding/binary"
	"io"
	"math"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/tensor"
)

// Magic is what a client sends first. It differs in its first byte from the preface of HTTP/2.
const Magic = "\xf1FERRY\r\n"

// version is the greatest version of the protocol that this package speaks.
const version = 1

// kind is the kind of a frame, as docs/ferry.md lists them.
type kind uint8

const (
	kindHello     kind = 1
	kindCall      kind = 2
	kindCancel    kind = 3
	kindEnd       kind = 4
	kindPing      kind = 5
	kindPong      kind = 6
	kindWelcome   kind = 16
	kindResult    kind = 17
	kindFailure   kind = 18
	kindBroken    kind = 19
	kindHeld      kind = 20
	kindResumed   kind = 21
	kindCredit    kind = 22
	kindDrain     kind = 23
	kindStats     kind = 24
	kindCancelled kind = 25
)

// A frame is its length, an id, a kind and a payload. The length counts what follows it.
const (
	lengthSize = 4
	headSize   = 8 + 1 // id and kind
	frameSize  = lengthSize + headSize
	maxHello   = 64 << 10
)

// appendHead appends the beginning of a frame whose payload has size bytes.
func appendHead(dst []byte, id uint64, k kind, size int) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(headSize+size))
	dst = binary.LittleEndian.AppendUint64(dst, id)
	return append(dst, byte(k))
}

// appendFrame appends a frame whose payload is written by body.
func appendFrame(dst []byte, id uint64, k kind, body func([]byte) []byte) []byte {
	at := len(dst)
	dst = body(appendHead(dst, id, k, 0))
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-lengthSize))
	return dst
}

func appendText(dst []byte, s string) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// head is the beginning of a frame that was read.
type head struct {
	id   uint64
	kind kind
	size int // of the payload
}

// readHead reads the beginning of a frame. If nothing came at all, the error is io.EOF.
func readHead(r io.Reader) (h head, err error) {
	var b [frameSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return h, err
	}
	length := binary.LittleEndian.Uint32(b[:])
	if length < headSize || uint64(length) > math.MaxInt {
		return h, rule("a frame of length %d; want at least %d", length, headSize)
	}
	return head{binary.LittleEndian.Uint64(b[lengthSize:]), kind(b[frameSize-1]), int(length) - headSize}, nil
}

// within checks the length of a frame.
func (h head) within(most int) error {
	if length := h.size + headSize; length > most {
		return rule("a frame of length %d; at most %d are allowed", length, most)
	}
	return nil
}

// reader reads the fields of a payload. After the first field that is not whole, bad is set and
// every further field is zero.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) bytes(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// text reads a string. One that is not UTF-8 is bad.
func (r *reader) text() string {
	b := r.bytes(uint64(r.u32()))
	if !utf8.Valid(b) {
		r.bad, r.rest = true, nil
		return ""
	}
	return string(b)
}

// welcome is the payload of WELCOME.
type welcome struct {
	version         uint16
	rows            uint32
	bytes           uint64
	frame           uint32
	timeout, hold   uint64 // milliseconds
	model, release  string // release is the model's version
	inputs, outputs []tensor.Spec
}

func (w *welcome) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, w.version)
	dst = binary.LittleEndian.AppendUint32(dst, w.rows)
	dst = binary.LittleEndian.AppendUint64(dst, w.bytes)
	dst = binary.LittleEndian.AppendUint32(dst, w.frame)
	dst = binary.LittleEndian.AppendUint64(dst, w.timeout)
	dst = binary.LittleEndian.AppendUint64(dst, w.hold)
	dst = appendText(dst, w.model)
	dst = appendText(dst, w.release)
	for _, specs := range [][]tensor.Spec{w.inputs, w.outputs} {
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(specs)))
		for i := range specs {
			dst = appendText(dst, specs[i].Name)
			dst = appendText(dst, specs[i].DType.String())
			dst = binary.LittleEndian.AppendUint16(dst, uint16(len(specs[i].Row)))
			for _, d := range specs[i].Row {
				dst = binary.LittleEndian.AppendUint64(dst, uint64(d))
			}
		}
	}
	return dst
}

// The numbers of STATS.
const (
	statQueued = iota + 1
	statInFlight
	statHeld
	statRetries
	statRequests
	statRows
	statRequestTime
	statTimeouts
	statLatency
	statAnswers
	statsEnd
)

// numbers are the values of STATS, by their numbers. The first one is not used.
type numbers [statsEnd]uint64

func (n *numbers) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, statsEnd-1)
	for i := uint16(1); i < statsEnd; i++ {
		dst = binary.LittleEndian.AppendUint16(dst, i)
		dst = binary.LittleEndian.AppendUint64(dst, n[i])
	}
	return dst
}

// failure is the payload of FAILURE and BROKEN.
type failure struct {
	action                                async.Action
	class                                 async.Class
	attempts                              uint32
	code, reason, text, endpoint, request string
}

func (f *failure) append(dst []byte) []byte {
	// The action fallback becomes a result, so it has no number.
	dst = append(dst, byte(answerOf(f.action)-answerFail), byte(f.class))
	dst = binary.LittleEndian.AppendUint32(dst, f.attempts)
	for _, s := range [...]string{f.code, f.reason, f.text, f.endpoint, f.request} {
		dst = appendText(dst, valid(s))
	}
	return dst
}

// maxText bounds the texts of failures, which may quote what a server or a client said.
const maxText = 16 << 10

// valid returns s as UTF-8 and within bounds.
func valid(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	return s
}
