package sidecartest

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"google.golang.org/grpc/test/bufconn"
)

// Proxy stands in front of a sidecar like a load balancer or an ingress. It passes calls on, unless
// the test makes it answer some of them itself: with an HTTP status, and without a gRPC status. It
// runs in memory. Its methods are safe for concurrent use.
type Proxy struct {
	listener *bufconn.Listener
	server   *http.Server
	forward  *http.Transport
	serving  sync.WaitGroup

	mu    sync.Mutex
	rules []proxyRule
	log   []string
}

// proxyRule says what happens to the next calls, as many as times says, whose method ends with the
// name.
type proxyRule struct {
	method string
	status int // 0: the call is reset
	alter  func(answer *http.Response, body []byte) []byte
	times  int
}

// StartProxy runs a proxy in front of s until the end of the test.
func StartProxy(t TB, s *Server) *Proxy {
	t.Helper()
	var plain http.Protocols
	plain.SetUnencryptedHTTP2(true)
	dial := s.Dialer()
	p := &Proxy{
		listener: bufconn.Listen(256 << 10),
		forward: &http.Transport{Protocols: &plain, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return dial(ctx, address)
		}},
	}
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "sidecartest"})
	pass.Transport, pass.FlushInterval = p.forward, -1
	pass.ModifyResponse = func(answer *http.Response) error {
		alter, ok := answer.Request.Context().Value(alterKey{}).(func(*http.Response, []byte) []byte)
		if !ok {
			return nil
		}
		body, err := io.ReadAll(answer.Body) // the trailers come after the body
		if err == nil {
			answer.Body.Close()
			answer.Body = io.NopCloser(bytes.NewReader(alter(answer, body)))
		}
		return err
	}
	p.server = &http.Server{Protocols: &plain, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch rule := p.next(r.URL.Path); {
		case rule == nil:
			pass.ServeHTTP(w, r)
		case rule.alter != nil:
			pass.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), alterKey{}, rule.alter)))
		case rule.status == 0:
			panic(http.ErrAbortHandler)
		default:
			http.Error(w, "the proxy says so", rule.status)
		}
	})}
	p.serving.Go(func() { _ = p.server.Serve(p.listener) })
	t.Cleanup(p.Close)
	return p
}

// Close ends the proxy and its connections. Further calls do nothing.
func (p *Proxy) Close() {
	_ = p.server.Close()
	p.serving.Wait()
	p.forward.CloseIdleConnections()
}

// Dialer returns a function that connects to the proxy, whatever address it is called with.
func (p *Proxy) Dialer() func(ctx context.Context, address string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) { return p.listener.DialContext(ctx) }
}

// Answer makes the proxy answer the next calls of a method, such as ModelInfer, itself, with an
// HTTP status. It applies to as many calls as times says. An empty name means every method.
func (p *Proxy) Answer(method string, status, times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, proxyRule{method: method, status: status, times: times})
}

// Alter makes the proxy pass the next calls of a method on, and change the answer, like a broken
// proxy. It applies to as many calls as times says. alter is called with the answer, whose headers
// and trailers it may change, and with its body; the proxy sends the body that alter returns.
func (p *Proxy) Alter(method string, times int, alter func(answer *http.Response, body []byte) []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, proxyRule{method: method, alter: alter, times: times})
}

type alterKey struct{}

// Reset makes the proxy end the next calls of a method, as many as times says, with RST_STREAM.
func (p *Proxy) Reset(method string, times int) { p.Answer(method, 0, times) }

// Answered returns the methods that the proxy has answered, altered or reset itself, in their
// order.
func (p *Proxy) Answered() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.log...)
}

// next returns the rule for a call. Nil: the call is passed on.
func (p *Proxy) next(path string) *proxyRule {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.rules {
		if r := &p.rules[i]; r.times > 0 && strings.HasSuffix(path, r.method) {
			r.times--
			p.log = append(p.log, path[strings.LastIndexByte(path, '/')+1:])
			found := *r
			return &found
		}
	}
	return nil
}
