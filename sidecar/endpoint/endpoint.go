// Package endpoint is about the addresses that a sidecar listens on and a client dials. Parse reads
// one and says what is wrong with one that it refuses; Endpoint.Listen opens a listener, and never
// takes a Unix socket away from a live process; Endpoint.GRPCTarget is what grpc.NewClient takes.
// It must never know what is spoken over the connection.
//
// The forms are
//
//	unix:///run/model.sock    a Unix socket, by absolute path
//	unix-abstract:name        a Unix socket in Linux's abstract namespace
//	host:port                 TCP; the port is a number, the host a name or an address
//	[2001:db8::1]:port        TCP over IPv6
//
// Parsing looks nothing up and opens nothing. Other kinds of address, such as Windows pipes, are
// not supported: use package net for them.
package endpoint

import (
	"errors"
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
)

// MaxPath is the longest path of a Unix socket, in bytes. The system's address has room for 108
// bytes, and the last one is the closing zero.
const MaxPath = 107

// Endpoint is one address. The zero value is not a valid endpoint. Endpoints can be compared with
// ==.
type Endpoint struct {
	// Network is "unix" or "tcp", as in package net.
	Network string
	// Address is what package net dials: a path, "@name" for an abstract socket, or host:port.
	Address string
}

// Parse reads an endpoint. The error says which form was expected and why s was refused. Nothing is
// looked up or opened.
func Parse(s string) (Endpoint, error) {
	refuse := func(format string, args ...any) (Endpoint, error) {
		return Endpoint{}, fmt.Errorf("endpoint %q: "+format, append([]any{s}, args...)...)
	}
	if name, ok := strings.CutPrefix(s, "unix-abstract:"); ok {
		switch {
		case name == "":
			return refuse("the socket has no name; write unix-abstract:name")
		case strings.HasPrefix(name, "/"):
			return refuse("the name of an abstract socket must not begin with a slash; for a socket file write unix://%s", name)
		case strings.ContainsAny(name, "%?#"):
			return refuse("the name of an abstract socket must not contain %%, ? or #")
		}
		if err := checkName(name); err != nil {
			return refuse("%w", err)
		}
		return Endpoint{Network: "unix", Address: "@" + name}, nil
	}
	if p, ok := strings.CutPrefix(s, "unix:"); ok {
		if rest, ok := strings.CutPrefix(p, "//"); ok {
			p = rest
		}
		switch {
		case p == "":
			return refuse("the socket has no path; write unix:///absolute/path.sock")
		case !strings.HasPrefix(p, "/"):
			return refuse("the path must be absolute; write three slashes, as in unix:///run/model.sock")
		case strings.HasSuffix(p, "/"), path.Clean(p) == "/":
			return refuse("the path names a folder; write unix:///absolute/path.sock")
		}
		p = path.Clean(p)
		if err := checkName(p); err != nil {
			return refuse("%w", err)
		}
		return Endpoint{Network: "unix", Address: p}, nil
	}
	const forms = "write unix:///absolute/path.sock, unix-abstract:name, host:port or [v6]:port"
	switch {
	case s == "":
		return refuse("the endpoint is empty; %s", forms)
	case strings.HasPrefix(s, "/"):
		return refuse("write a socket's path as unix://%s", s)
	case strings.Contains(s, "://"):
		return refuse("unknown scheme; %s", forms)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		reason := "not an address"
		if addr, ok := errors.AsType[*net.AddrError](err); ok {
			reason = addr.Err
		}
		return refuse("%s; %s", reason, forms)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return refuse("the port must be a number from 0 to 65535, got %q", port)
	}
	if i := strings.IndexFunc(host, unprintable); i >= 0 || strings.ContainsAny(host, "/?#@ ") {
		return refuse("the host %q is neither a name nor an address", host)
	}
	return Endpoint{Network: "tcp", Address: net.JoinHostPort(host, strconv.FormatUint(n, 10))}, nil
}

// FromAddr returns the endpoint of a listener's or a connection's address. A program that listened
// on port 0 learns its port this way. An address of another network than unix or tcp is an error.
func FromAddr(a net.Addr) (Endpoint, error) {
	switch a.Network() {
	case "unix":
		if name, ok := strings.CutPrefix(a.String(), "@"); ok {
			return Parse("unix-abstract:" + name)
		}
		return Parse("unix://" + a.String())
	case "tcp":
		return Parse(a.String())
	}
	return Endpoint{}, fmt.Errorf("endpoint: an address of network %q is neither a Unix socket nor TCP", a.Network())
}

// String returns the endpoint in the form that Parse reads.
func (e Endpoint) String() string {
	if e.Network != "unix" {
		return e.Address
	}
	if name, ok := strings.CutPrefix(e.Address, "@"); ok {
		return "unix-abstract:" + name
	}
	return "unix://" + e.Address
}

// IsUnix reports whether the endpoint is a Unix socket, as a file or abstract.
func (e Endpoint) IsUnix() bool { return e.Network == "unix" }

// Private reports whether only this machine can reach the endpoint: a Unix socket, localhost, or a
// loopback address. Nothing is looked up, so every other host name counts as not private.
func (e Endpoint) Private() bool {
	if e.IsUnix() {
		return true
	}
	host, _, err := net.SplitHostPort(e.Address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// GRPCTarget returns the target with which grpc.NewClient dials the endpoint by gRPC's own
// resolvers. Host names are resolved again at each reconnect.
func (e Endpoint) GRPCTarget() string {
	if e.Network == "unix" {
		if strings.HasPrefix(e.Address, "@") {
			return e.String()
		}
		return "unix://" + escape.Replace(e.Address)
	}
	return "dns:///" + escape.Replace(e.Address)
}

// grpc parses its target as a URL.
var escape = strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23")

func checkName(name string) error {
	if len(name) > MaxPath {
		return fmt.Errorf("the socket's name is %d bytes long and the system allows %d; choose a shorter one", len(name), MaxPath)
	}
	if strings.IndexFunc(name, unprintable) >= 0 {
		return errors.New("the socket's name contains a control character")
	}
	return nil
}

func unprintable(r rune) bool { return r < ' ' || r == 0x7f }
