package sidecar

import (
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// A call may end with an error although the model has run its rows: where this side can make
// nothing of the answer, and where the server could not send it. That such an error looks as one
// that the model has failed must not send the rows again if they must not be repeated.

// Words of grpc's for an answer of which this side could make nothing, where its headers have
// arrived. A server uses none of them in such a place, unless it is a proxy for another that has
// run the rows too.
var wordsAnswer = [...]string{
	"grpc: ", // too large, compressed in a way that is not known or not well, not to be decoded
	"cardinality violation: ",
	"unexpected EOF",
	"a HEADERS frame cannot appear in the middle of a stream",
	"peer header list size exceeded limit",
	"transport: malformed ",
	"received invalid frame",
}

// Words of a server that could not send what the model has given: for its size, of grpc in Go and
// C++, in .NET, in Rust; and else, of grpc in Go and of our sidecar. This side says the same of a
// request that it has not sent.
var (
	wordsLargeToSend = [...]string{
		"send message larger than max", "sent message larger than max",
		"sending message exceeds the maximum configured message size", "encoded message length too large",
	}
	wordsNotSent = [...]string{"grpc: error while marshaling", "grpc: error while compressing", "the answer cannot be encoded"}
)

// spoiled reports whether an answer of the server's came, or began to, and this side could make
// nothing of it. A status of the server's own has something around it: what has nothing is grpc's,
// and, unless its words begin with "grpc: ", of a request that has left.
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

// unsent reports whether the server says that it could not send the answer, and whether for its
// size.
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
