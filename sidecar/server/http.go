package server

import (
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler returns the server's HTTP handler. /health answers READY with 200 or NOT_READY with 503,
// and names the models that failed to load, one on each line. /health/MODEL answers the same for
// one model. /metrics is for Prometheus.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		sayReady(w, s.Ready())
		for _, f := range s.repo.all() {
			// The reason is in the log and in the repository's index. It may name
			// files, and anybody may read this page.
			if failed, _ := f.missing(); failed {
				fmt.Fprintf(w, "%s FAILED\n", f.name)
			}
		}
	})
	mux.HandleFunc("GET /health/{model...}", func(w http.ResponseWriter, r *http.Request) {
		f := s.repo.family(r.PathValue("model"))
		if f == nil {
			http.Error(w, "no such model", http.StatusNotFound)
			return
		}
		sayReady(w, f.serves() && !s.isDraining())
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

func sayReady(w http.ResponseWriter, ready bool) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "NOT_READY")
		return
	}
	fmt.Fprintln(w, "READY")
}

const (
	// maxHTTPConnections is the largest number of open HTTP connections.
	maxHTTPConnections = 64
	// maxHTTPBody is the largest body of an HTTP request, in bytes. No request needs a body.
	maxHTTPBody = 4 << 10
)

// fewConnections is a listener with a bound on its connections. Those beyond it are closed.
type fewConnections struct {
	net.Listener
	open budget
}

// Accept implements net.Listener.
func (f *fewConnections) Accept() (net.Conn, error) {
	for {
		c, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if f.open.try(1) {
			return &counted{Conn: c, leave: sync.OnceFunc(func() { f.open.give(1) })}, nil
		}
		c.Close()
	}
}

type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
