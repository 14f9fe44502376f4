package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/tensorferry/tensorferry/flink/internal/idle"
	"github.com/tensorferry/tensorferry/flink/worker"
	"github.com/tensorferry/tensorferry/internal/cli"
)

const workerDetails = `Serves workers to the Flink TaskManager on this machine. Run one pool beside each TaskManager,
next to the model server. A job finds its pool at the address of run --worker-pool, which is
the same on all machines.

  --listen HOST:PORT  where TaskManagers ask for workers (default 127.0.0.1:50000). Without a host
                      it is loopback. Any program that can reach it can run work here, which
                      includes reading and writing files as the user of this process
  --log-format FORMAT text or json (default text)

SIGTERM ends the pool. Jobs with records in it fail, and Flink's restart strategy starts them
again. A supervisor should start the pool again.

exit codes: 0 ended by a signal, 1 failed, 2 wrong usage
`

func runWorker(c *cli.Call) int {
	fs := c.Flags()
	listen := fs.String("listen", defaultPool, "")
	format := fs.String("log-format", "text", "")
	_, code, ok := c.Parse(fs, 0, "no arguments")
	if !ok {
		return code
	}
	if !slices.Contains([]string{"text", "json"}, *format) {
		return c.Misused("--log-format is %q; want text or json", *format)
	}
	l, err := net.Listen("tcp", listenAt(*listen))
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return c.Misused("--listen: %v", err)
	}
	if err != nil {
		return c.Fails("--listen: %v", err) // such as an address in use, which may become free
	}
	log := newLogger(c.Stderr, *format)
	p := worker.New(log)
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	log.Info("the worker pool is ready", "address", l.Addr().String())
	if at, ok := l.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() {
		log.Warn("other machines may reach the worker pool, and run work here as this user; listen on 127.0.0.1, or protect the port with a firewall",
			"address", at.String())
	}
	select {
	case err := <-served:
		return c.Fails("%v", err)
	case s := <-c.Signals:
		log.Info("the worker pool ends", "signal", s.String())
		p.Close()
		closeKept(log)
		<-served
		return exitOK
	}
}

// listenAt returns the address for --listen. A port without a host is one of loopback; only an
// explicit host listens on other interfaces.
func listenAt(address string) string {
	if host, port, err := net.SplitHostPort(address); err == nil && host == "" {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return address
}

// closeLimit bounds the time in which an ending pool closes what its workers have kept. The systemd
// unit waits a little longer.
const closeLimit = 10 * time.Second

// closeKept closes what is kept between bundles: channels, with the sidecars that job files bring,
// and clients of brokers. A bundle that uses one of them lets it go when it notices that its worker
// has ended.
func closeKept(log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	go func() {
		for !idle.CloseAll() && ctx.Err() == nil {
			time.Sleep(20 * time.Millisecond)
		}
		cancel()
	}()
	<-ctx.Done()
	if ctx.Err() == context.DeadlineExceeded {
		log.Warn("not all channels and clients were closed in time", "limit", closeLimit)
	}
}
