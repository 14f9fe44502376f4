package sidecar

import (
	"encoding/binary"
	"fmt"
)

// frames follows the HTTP/2 frames that one side sends. It reads only the head of each frame, and
// the payload of GOAWAY.
type frames struct {
	skip   int // bytes before the first frame
	head   [9]byte
	n      int // bytes of the head that have arrived
	left   int // bytes of the frame that are still to come
	served bool
	gone   bool
	words  []byte // payload of the newest GOAWAY
	// begins and ends, if set, are called at the start and the end of each frame.
	begins, ends func(kind, flags byte, stream uint32)
}

// The frame types that matter here, and how much of a GOAWAY is kept.
const (
	frameData    = 0x0
	frameHeaders = 0x1
	frameReset   = 0x3
	frameGoAway  = 0x7
	maxGoAway    = 8 + 256

	endStream = 0x1 // a flag of DATA and HEADERS

	preface = 24 // bytes that a client sends before its first frame
)

func (f *frames) feed(b []byte) {
	if f.skip > 0 {
		n := min(f.skip, len(b))
		f.skip, b = f.skip-n, b[n:]
	}
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
			if f.begins != nil {
				f.begins(f.head[3], f.head[4], f.stream())
			}
		}
		n := min(f.left, len(b))
		if f.head[3] == frameGoAway {
			f.words = append(f.words, b[:min(n, maxGoAway-len(f.words))]...)
		}
		if f.left, b = f.left-n, b[n:]; f.left == 0 {
			f.gone = f.gone || f.head[3] == frameGoAway
			f.n = 0
			if f.ends != nil {
				f.ends(f.head[3], f.head[4], f.stream())
			}
		}
	}
}

// stream is the number of the present frame's stream.
func (f *frames) stream() uint32 { return binary.BigEndian.Uint32(f.head[5:]) &^ (1 << 31) }

// lastStream returns the last stream that the server's GOAWAY allows to finish. False: the server
// has sent no GOAWAY.
func (f *frames) lastStream() (uint32, bool) {
	if !f.gone || len(f.words) < 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(f.words) &^ (1 << 31), true
}

// goAwayCodes holds HTTP/2's error codes, indexed by number.
var goAwayCodes = [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
	"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}

// goAway describes the server's last GOAWAY, and reports whether a healthy server sent it.
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
