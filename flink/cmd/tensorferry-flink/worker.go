package main

import (
	"flag"
	"fmt"
	"net"
	"slices"

	"github.com/tensorferry/tensorferry/flink/worker"
)

const workerDetails = `Serves workers to the Flink TaskManager on this machine: one pool beside each, next to the model server. A
job finds it at the address of run --worker-pool, which is the same on all machines.

  --listen HOST:PORT  where TaskManagers ask for workers (default 127.0.0.1:50000). Whoever reaches it can use it
  --log-format FORMAT text or json (default text)

SIGTERM ends it. Jobs that have records here fail and start again by Flink's restart strategy; a supervisor should start the pool again.

exit codes: 0 ended by a signal, 1 failed, 2 wrong usage
`

func runWorker(w *world, args []string) int {
	fs := flag.NewFlagSet("worker", flag.ContinueOnError)
	listen := fs.String("listen", defaultPool, "")
	format := fs.String("log-format", "text", "")
	_, code, ok := parse(w, fs, args, 0, "no arguments")
	if !ok {
		return code
	}
	if !slices.Contains([]string{"text", "json"}, *format) {
		return usage(w, "worker", "--log-format is %q; want text or json", *format)
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return usage(w, "worker", "--listen: %v", err)
	}
	log := newLogger(w.stderr, *format)
	p := worker.New(log)
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	log.Info("the worker pool is ready", "address", l.Addr().String())
	select {
	case err := <-served:
		fmt.Fprintf(w.stderr, "tensorferry-flink worker: %v\n", err)
		return exitFailed
	case s := <-w.signals:
		log.Info("the worker pool ends", "signal", s.String())
		p.Close()
		<-served
		return exitOK
	}
}
