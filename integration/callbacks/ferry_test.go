package callbacks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/ferry"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

// newFerry makes a ferry that may reach a server that is not there.
func newFerry(cfg ferry.Config) (*ferry.Server, error) {
	cfg.Allow = []ferry.Target{{Model: "m", Config: sidecar.Config{Endpoint: "127.0.0.1:1"}}}
	return ferry.New(cfg)
}

// refused connects to a ferry with something else than its protocol, which must be answered.
func refused(srv *ferry.Server, wrap func(net.Conn) net.Conn) error {
	here, there := net.Pipe()
	defer here.Close()
	_ = here.SetDeadline(time.Now().Add(time.Minute))
	srv.Handle(wrap(there))
	if _, err := io.WriteString(here, "something"[:len(ferry.Magic)]); err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, here); n == 0 || err != nil {
		return fmt.Errorf("%d bytes and %w", n, err)
	}
	return nil
}

func asItIs(c net.Conn) net.Conn { return c }

// trapConn makes the mistake when it is read.
type trapConn struct {
	net.Conn
	*trap
}

func (c trapConn) Read(p []byte) (int, error) {
	if err := c.spring(c.at); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

var ferryRows = map[string]row{
	"ferry.Config.Tracer": {why: nested}, // in async.Config.Tracer
	"ferry.Config.Logger": {returns: true, check: harmless, run: virtual(func(_ *testing.T, tr *trap) error {
		own := &trap{at: "log", mistake: tr.mistake}
		srv, err := newFerry(ferry.Config{Logger: own.logger()})
		if err != nil {
			return err
		}
		err = errors.Join(refused(srv, asItIs), srv.Close())
		tr.sprung.Store(own.sprung.Load())
		return err
	})},
	// the connection ends, and the next one is served
	"ferry.Server.Handle(c)": {returns: true, check: harmless, run: virtual(func(_ *testing.T, tr *trap) error {
		srv, err := newFerry(ferry.Config{})
		if err != nil {
			return err
		}
		here, there := net.Pipe()
		srv.Handle(trapConn{there, tr})
		_ = here.SetDeadline(time.Now().Add(time.Minute))
		_, err = io.Copy(io.Discard, here)
		return errors.Join(err, refused(srv, asItIs), srv.Close())
	})},
	"ferry.Server.Serve(l)": {where: "Accept of the listener", returns: true, run: virtual(func(_ *testing.T, tr *trap) error {
		srv, err := newFerry(ferry.Config{})
		if err != nil {
			return err
		}
		own := &trap{at: "sidecar/server.Server.Start(listeners)", mistake: tr.mistake}
		err = srv.Serve(own.listen())
		tr.sprung.Store(own.sprung.Load())
		return errors.Join(err, srv.Close())
	})},
	// the connection ends, and requests are served
	"sidecar/server.Config.Divert": {check: harmless, run: func(t *testing.T, tr *trap) error {
		return serveAfter(func(l *memory) error {
			c, err := l.dial(context.Background(), "")
			if err != nil {
				return err
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			if _, err := io.WriteString(c, "x"); err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, c)
			return err
		}, func(cfg *server.Config, tr *trap) { cfg.Divert = func(net.Conn) { _ = tr.spring(tr.at) } })(t, tr)
	}},
}
