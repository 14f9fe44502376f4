package ferry

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/tensor"
)

// describe says what a frame means, in the form of testdata/vectors.txt. A frame that no side may
// send is "!".
func describe(frame []byte) string {
	h, err := readHead(strings.NewReader(string(frame)))
	if err != nil || h.size != len(frame)-frameSize {
		return "!"
	}
	r := &reader{rest: frame[frameSize:]}
	text := func() string { return fmt.Sprintf("%q", r.text()) }
	var says string
	bare := ""
	switch h.kind {
	case kindHello:
		says = "HELLO " + string(r.bytes(uint64(len(r.rest))))
	case kindCall:
		says = fmt.Sprintf("CALL id=%d key=%s row=", h.id, text())
		says += hex.EncodeToString(r.bytes(uint64(len(r.rest))))
	case kindCancel:
		bare = fmt.Sprintf("CANCEL id=%d", h.id)
	case kindEnd:
		bare = "END"
	case kindPing:
		bare = fmt.Sprintf("PING id=%d", h.id)
	case kindPong:
		bare = fmt.Sprintf("PONG id=%d", h.id)
	case kindWelcome:
		says = fmt.Sprintf("WELCOME version=%d rows=%d bytes=%d frame=%d timeout=%d hold=%d", r.u16(), r.u32(), r.u64(), r.u32(), r.u64(), r.u64())
		says += " model=" + text()
		says += " modelversion=" + text()
		for _, name := range []string{"inputs", "outputs"} {
			var specs []string
			for n := r.u16(); n > 0 && !r.bad; n-- {
				spec := fmt.Sprintf("%s %s ", r.text(), r.text())
				dims := tensor.Shape{}
				for k := r.u16(); k > 0 && !r.bad; k-- {
					dims = append(dims, int64(r.u64()))
				}
				specs = append(specs, spec+dims.String())
			}
			says += " " + name + "=[" + strings.Join(specs, ", ") + "]"
		}
	case kindResult:
		says = fmt.Sprintf("RESULT id=%d row=%s", h.id, hex.EncodeToString(r.bytes(uint64(len(r.rest)))))
	case kindFailure, kindBroken:
		if says = "BROKEN"; h.kind == kindFailure {
			says = fmt.Sprintf("FAILURE id=%d", h.id)
		}
		says += fmt.Sprintf(" action=%d class=%d attempts=%d", r.u8(), r.u8(), r.u32())
		for _, name := range []string{"code", "reason", "text", "endpoint", "request"} {
			says += " " + name + "=" + text()
		}
	case kindHeld:
		says = "HELD why=" + text()
	case kindResumed:
		bare = "RESUMED"
	case kindCredit:
		says = fmt.Sprintf("CREDIT rows=%d bytes=%d", r.u32(), r.u64())
	case kindDrain:
		bare = "DRAIN"
	case kindStats:
		says = "STATS"
		for n := r.u16(); n > 0 && !r.bad; n-- {
			says += fmt.Sprintf(" %d=%d", r.u16(), r.u64())
		}
	case kindCancelled:
		bare = fmt.Sprintf("CANCELLED id=%d", h.id)
	default:
		return "!"
	}
	if bare != "" {
		says = bare
	}
	if r.bad || len(r.rest) > 0 {
		return "!"
	}
	return says
}

// vectors are the frames of testdata/vectors.txt that this package can write.
func vectors() [][]byte {
	body := func(id uint64, k kind, fill func([]byte) []byte) []byte { return appendFrame(nil, id, k, fill) }
	bare := func(id uint64, k kind) []byte { return appendHead(nil, id, k, 0) }
	bytes := func(b ...byte) func([]byte) []byte { return func(dst []byte) []byte { return append(dst, b...) } }
	text := func(s string, rest ...byte) func([]byte) []byte {
		return func(dst []byte) []byte { return append(appendText(dst, s), rest...) }
	}
	digits := &welcome{
		version: 1, rows: 1000, bytes: 64 << 20, frame: 1 << 20, timeout: 1000, hold: 60_000, model: "digits",
		inputs:  []tensor.Spec{{Name: "pixels", DType: tensor.FP32, Row: tensor.Shape{64}}},
		outputs: []tensor.Spec{{Name: "label", DType: tensor.Int64, Row: tensor.Shape{}}, {Name: "probs", DType: tensor.FP32, Row: tensor.Shape{10}}},
	}
	texts := &welcome{
		version: 1, rows: 1, bytes: 1, frame: 65536, model: "größe", release: "2",
		inputs:  []tensor.Spec{{Name: "t", DType: tensor.Bytes, Row: tensor.Shape{-1, 2}}},
		outputs: []tensor.Spec{{Name: "u", DType: tensor.Bool, Row: tensor.Shape{-1}}},
	}
	failed := &failure{class: async.BadRecord, attempts: 2, code: "INVALID_ARGUMENT", reason: "BAD_TENSOR",
		text: "sidecar 127.0.0.1:8001, model digits: the record is bad", endpoint: "127.0.0.1:8001", request: "r-7"}
	letter := &failure{action: async.DeadLetter, class: async.Timeout, attempts: 1, text: "no answer within the timeout (1s)"}
	broken := &failure{class: async.Permanent, code: "PERMISSION_DENIED", text: "the ferry may not reach a model \"x\"", endpoint: ""}
	return [][]byte{
		body(0, kindHello, bytes([]byte(`{"version":1,"subtask":0,"parallelism":1,"form":"rows","infer":{"model":"digits"}}`)...)),
		body(7, kindCall, text("", 0, 0, 128, 63)),
		body(8, kindCall, text("käse", 1)),
		body(1<<63, kindCall, text("")),
		bare(7, kindCancel), bare(0, kindEnd), bare(3, kindPing), bare(3, kindPong),
		body(0, kindWelcome, digits.append), body(0, kindWelcome, texts.append),
		body(7, kindResult, bytes(1, 2, 3)), body(8, kindResult, bytes()),
		body(7, kindFailure, failed.append), body(8, kindFailure, letter.append), body(0, kindBroken, broken.append),
		body(0, kindHeld, text("the server is out of reach")), bare(0, kindResumed),
		body(0, kindCredit, bytes(10, 0, 0, 0, 232, 3, 0, 0, 0, 0, 0, 0)), bare(0, kindDrain),
		body(0, kindStats, bytes(2, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0)),
		bare(7, kindCancelled),
		// What no side may send.
		{8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0},                      // shorter than its head
		{9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0},                   // kind 0
		{9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 200},                 // a kind that does not exist
		{20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 17},                 // ends too early
		{13, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 9, 0, 0, 0},      // a key longer than the frame
		{14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 255}, // a key that is not UTF-8
		{10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 1},               // END with a payload
		{11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 9, 0},           // STATS without its pairs
		append(bare(0, kindWelcome), 1, 0),                        // not the length of the frame
		body(0, kindWelcome, bytes(1, 0, 1, 0, 0, 0)),             // WELCOME that ends too early
		body(1, kindFailure, bytes(0, 0, 0, 0, 0, 0, 255, 255, 255, 255)),
	}
}
