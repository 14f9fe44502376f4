package job

import (
	"net"
	"regexp"
	"strconv"
)

// DefaultSample is the share of the records without a trace context that begin a trace, if the file
// does not say.
const DefaultSample = 0.01

// Trace says where spans go.
type Trace struct {
	// Endpoint is an OpenTelemetry collector that takes OTLP over gRPC, as host:port.
	Endpoint string
	// Sample is the share, from 0 to 1, of the records without a trace context that begin a trace.
	// Default 0.01.
	Sample float64
	// TLS is nil for a plain connection.
	TLS *TLS
	// Headers are sent with every request, by their lower-case names. Nil: the file names none.
	Headers map[string]string
}

// headerName matches the names that gRPC allows, except those of its own and of binary headers.
var headerName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,127}$`)

const collectorWant = "an OpenTelemetry collector's address for OTLP over gRPC, as host:port"

func (d *decoder) trace(v value) *Trace {
	s := d.section(v, "endpoint", "sample", "headers", "tls")
	s.missing("endpoint", collectorWant)
	t := &Trace{Endpoint: s.text("endpoint", collectorWant), Sample: DefaultSample}
	if t.Endpoint != "" && !hostPort(t.Endpoint) {
		d.wrong(s.values["endpoint"], collectorWant)
	}
	if share := s.share("sample"); share != nil {
		t.Sample = *share
	}
	if h, ok := s.values["headers"]; ok {
		t.Headers = map[string]string{}
		for _, e := range d.names(h, headerName, "a header's name, in lower case") {
			if text := d.text(e, "a header's value"); text != "" && !printable(text) {
				d.wrong(e, "a header's value, of printable ASCII characters")
			} else {
				t.Headers[e.key] = text
			}
		}
	}
	if tls, ok := s.values["tls"]; ok {
		t.TLS = d.tls(tls)
	}
	return t
}

// hostPort reports whether a text names a host and a port, and nothing else.
func hostPort(text string) bool {
	host, port, err := net.SplitHostPort(text)
	n, bad := strconv.ParseUint(port, 10, 16)
	return err == nil && bad == nil && n > 0 && host != ""
}

func printable(text string) bool {
	for _, c := range text {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
