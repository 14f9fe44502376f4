package sidecar

import (
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// A call may end with an error although the model has run its rows: this side could not read the
// answer, or the server could not send it. Such an error looks like a failure of the model. Rows
// that must not be repeated must not be sent again because of it.

// grpc's messages for an answer that this side could not read although its headers arrived. A
// server sends none of them in such a place, unless it is a proxy for another server that has run
// the rows too.
var wordsAnswer = [...]string{
	"grpc: ", // too large, cannot be decompressed, cannot be decoded
	"cardinality violation: ",
	"unexpected EOF",
	"a HEADERS frame cannot appear in the middle of a stream",
	"peer header list size exceeded limit",
	"transport: malformed ",
	"received invalid frame",
}

// Messages of a server that could not send the model's answer. The first list is about its size:
// grpc in Go and C++, in .NET, in Rust. The second is about other causes: grpc in Go, and our
// sidecar. This side says the same of a request that it could not send.
var (
	wordsLargeToSend = [...]string{
		"send message larger than max", "sent message larger than max",
		"sending message exceeds the maximum configured message size", "encoded message length too large",
	}
	wordsNotSent = [...]string{"grpc: error while marshaling", "grpc: error while compressing", "the answer cannot be encoded"}
)

// spoiled reports whether an answer of the server arrived, or began to, and this side could not
// read it. A status of the server's own comes with headers or trailers. A status without either was
// made by grpc. Unless its message begins with "grpc: ", the request had left this side by then.
func (m *marks) spoiled(d *oip.Details) bool {
	words := wordsAnswer[:]
	switch {
	case m == nil || d.Reason != "":
		return false
	case len(m.header) > 0:
	case len(m.trailer) > 0 || d.Code != codes.Internal && d.Code != codes.Unknown:
		return false
	default:
		words = words[1:]
	}
	return hasPrefix(d.Message, words) ||
		strings.HasPrefix(d.Message, "received ") && strings.Contains(d.Message, " data exceeding the limit ")
}

// unsent reports whether the server says that it could not send the answer, and whether the answer
// was too large.
func (m *marks) unsent(d *oip.Details) (yes, large bool) {
	if m == nil || len(m.header)+len(m.trailer) == 0 || d.Reason != "" {
		return false, false
	}
	text := strings.ToLower(d.Message)
	for _, w := range wordsLargeToSend {
		if strings.Contains(text, w) {
			return true, true
		}
	}
	return hasPrefix(text, wordsNotSent[:]), false
}

func hasPrefix(text string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(text, p) {
			return true
		}
	}
	return false
}
