package trace

// Names of the headers, and of the metadata of a call, that carry a context.
const (
	ParentHeader = "traceparent"
	StateHeader  = "tracestate"
)

// maxState bounds the tracestate that is kept, in bytes. A longer one is left out, as the W3C
// recommendation allows.
const maxState = 4096

// Context says which span a record or a call belongs to. A Context must not be changed once it is
// in a record, so any number of records and goroutines may share it.
type Context struct {
	// TraceID and SpanID are random. In a sampled context they are not zero.
	TraceID [16]byte
	SpanID  [8]byte
	// Flags are the flags of traceparent. The lowest bit says that the trace is sampled.
	Flags byte
	// Remote reports that the context came from another process.
	Remote bool
	// State is the tracestate in printable ASCII, at most 4096 bytes. It may be empty.
	State string
}

// Unsampled is the context of every record whose trace is not recorded. All such records share it,
// so they need no memory for it. The ids of their traces are not kept. It must not be changed.
var Unsampled = &Context{}

// sampled is the flag of traceparent that says that a trace is sampled.
const sampled = 1

// Sampled reports whether the spans of c are recorded. It is false for a nil c.
func (c *Context) Sampled() bool { return c != nil && c.Flags&sampled != 0 }

// parentLen is the length of a traceparent of version 0: "00-", 32 digits, "-", 16 digits, "-", 2
// digits.
const parentLen = 2 + 1 + 32 + 1 + 16 + 1 + 2

// Parse reads the headers traceparent and tracestate, as text or bytes. It returns nil if parent
// holds no context or is malformed. It returns Unsampled, without an allocation, if the trace is
// not sampled. A tracestate that is not printable ASCII or longer than 4096 bytes is left out. The
// result keeps no part of the arguments.
func Parse[S ~string | ~[]byte](parent, state S) *Context {
	// Later versions may be longer, behind another dash. Version ff is invalid.
	if len(parent) < parentLen || parent[2] != '-' || parent[35] != '-' || parent[52] != '-' {
		return nil
	}
	var version, flags [1]byte
	var c Context
	if !unhex(version[:], parent[:2]) || !unhex(c.TraceID[:], parent[3:35]) || !unhex(c.SpanID[:], parent[36:52]) || !unhex(flags[:], parent[53:55]) {
		return nil
	}
	longer := len(parent) > parentLen
	if version[0] == 0xff || longer && (version[0] == 0 || parent[parentLen] != '-') || c.TraceID == [16]byte{} || c.SpanID == [8]byte{} {
		return nil
	}
	if flags[0]&sampled == 0 {
		return Unsampled
	}
	out := &Context{TraceID: c.TraceID, SpanID: c.SpanID, Flags: flags[0], Remote: true}
	if printable(state) {
		out.State = string(state)
	}
	return out
}

// printable reports whether a state can be sent on in a header.
func printable[S ~string | ~[]byte](state S) bool {
	if len(state) > maxState {
		return false
	}
	for i := range len(state) {
		if state[i] < ' ' || state[i] > '~' {
			return false
		}
	}
	return true
}

// Parent returns c as a traceparent of version 0.
func (c *Context) Parent() string {
	b := make([]byte, 0, parentLen)
	b = append(b, "00-"...)
	b = appendHex(b, c.TraceID[:])
	b = append(b, '-')
	b = appendHex(b, c.SpanID[:])
	b = append(b, '-')
	return string(appendHex(b, []byte{c.Flags}))
}

const digits = "0123456789abcdef"

func appendHex(dst, src []byte) []byte {
	for _, v := range src {
		dst = append(dst, digits[v>>4], digits[v&15])
	}
	return dst
}

// unhex fills dst from twice as many hexadecimal digits. Unlike encoding/hex it takes only
// lower-case digits.
func unhex[S ~string | ~[]byte](dst []byte, src S) bool {
	for i := range dst {
		high, low := digit(src[2*i]), digit(src[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

// digit returns the value of a hexadecimal digit, and more than 15 for any other byte.
func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}
