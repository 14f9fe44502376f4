package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

const mockSidecarHelp = `usage: tensorferry mock-sidecar --listen ENDPOINT [flags]

Serves a model for tests until SIGTERM or SIGINT. The model computes a fixed function of each
row, with the latency and the faults that the flags set. When it is ready, it prints one line
per endpoint, like the sidecar.

FAULT is WHAT@WHEN[,times=N][,retry=DURATION]. WHAT is CODE or CODE/REASON, such as
RESOURCE_EXHAUSTED/QUEUE_FULL, or bad, hang, panic, crash, drop or short. WHEN is
the number of a call, a range such as 3-5 or 3-, every=N, row=VALUE (the first
element of the first input), or all.

`

// runMockSidecar serves a scripted model until ctx ends.
func runMockSidecar(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := newServerFlags("mock-sidecar")
	var script sidecartest.Script
	var inputs, faults, backendFaults listFlag
	var logFile string
	f.set.StringVar(&script.Model, "model", "model", "`NAME` of the model")
	f.set.StringVar(&script.Version, "version", "1", "`VERSION` of the model")
	f.set.StringVar(&script.Function, "function", "double", "`FUNCTION` that the model computes: double, echo, sum or hash")
	f.set.Var(&inputs, "input", "`NAME:DTYPE[d,d]` of an input; may be repeated (default x:FP32[1])")
	f.set.StringVar(&script.Output, "output", "y", "`NAME` of the output")
	f.set.DurationVar(&script.Latency, "latency", 0, "time that each batch takes")
	f.set.DurationVar(&script.PerRow, "per-row", 0, "additional time for each row of a batch")
	f.set.DurationVar(&script.Jitter, "jitter", 0, "most random time that is added to each batch")
	decimalVar(f.set, &script.Seed, "seed", 0, "`N` that seeds the jitter")
	decimalVar(f.set, &script.Instances, "instances", 0, "most batches (`N`) that run at once (default 256)")
	f.set.DurationVar(&script.LoadTime, "load-time", 0, "time until the model is loaded")
	f.set.Var(&faults, "fail", "`FAULT` of calls, counted as they arrive; may be repeated")
	f.set.Var(&backendFaults, "fail-backend", "`FAULT` of batches, counted as the model runs them; may be repeated")
	f.set.StringVar(&logFile, "log", "", "`FILE` that gets a line of JSON when a call starts and when it ends")
	f.set.Lookup("max-batch-delay").DefValue, f.set.Lookup("window").DefValue = "0s", "0s"
	f.maxBatchDelay = 0
	if code, ok := f.parse(args, mockSidecarHelp, stdout, stderr); !ok {
		return code
	}
	wrong := func(code int, err error) int {
		fmt.Fprintf(stderr, "tensorferry mock-sidecar: %v\n", err)
		return code
	}
	for _, s := range inputs {
		spec, err := mock.ParseSpec(s)
		if err != nil {
			return wrong(exitUsage, fmt.Errorf("--input: %w", err))
		}
		script.Inputs = append(script.Inputs, spec)
	}
	for _, list := range []struct {
		flag string
		from listFlag
		to   *[]mock.Fault
	}{{"--fail", faults, &script.Faults}, {"--fail-backend", backendFaults, &script.BackendFaults}} {
		for _, s := range list.from {
			fault, err := mock.ParseFault(s)
			if err != nil {
				return wrong(exitUsage, fmt.Errorf("%s: %w", list.flag, err))
			}
			*list.to = append(*list.to, fault)
		}
	}
	endpoints, err := f.endpoints()
	if err == nil {
		err = checkPlain(endpoints, f.plaintext)
	}
	if err != nil {
		return wrong(exitUsage, err)
	}
	script.MaxBatch, script.MaxBatchDelay, script.MaxMessageSize = f.maxBatch, orNone(f.maxBatchDelay), f.maxMessage
	script.QueueRows, script.QueueBytes, script.QueueTimeout = f.queueRows, f.queueBytes, f.queueTimeout
	script.Grace = orNone(f.grace)
	script.OnCrash = func() { // like kill -9 from outside
		if p, err := os.FindProcess(os.Getpid()); err != nil || p.Kill() != nil {
			os.Exit(137)
		}
	}
	if logFile != "" {
		out, err := os.OpenFile(logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return wrong(exitFailed, fmt.Errorf("--log: %w", err))
		}
		defer out.Close()
		script.OnStart = logCalls(out, "start", stderr)
		script.OnEnd = logCalls(out, "end", stderr)
	}
	health, err := f.listenHealth()
	if err != nil {
		return wrong(exitFailed, fmt.Errorf("--health: %w", err))
	}
	s, err := sidecartest.New(script, f.listen...)
	if err != nil {
		if health != nil {
			health.Close()
		}
		return wrong(exitFailed, err)
	}
	defer s.Close()
	if health != nil {
		if err := s.Serving().StartHTTP(health); err != nil {
			health.Close()
			return wrong(exitFailed, err)
		}
	}
	if err := s.WaitReady(ctx); err != nil {
		if ctx.Err() != nil {
			return exitOK // stopped while it was loading
		}
		return wrong(exitFailed, err)
	}
	for _, e := range s.Endpoints() {
		fmt.Fprintln(stdout, "ready: gRPC on "+e)
	}
	if health != nil {
		fmt.Fprintln(stdout, "ready: health on "+health.Addr().String())
	}
	<-ctx.Done()
	s.Stop()
	return exitOK
}

// loggedCall is one line of the log. It has what the sidecar knows about a call when the call
// starts, and again when it ends. Sequence numbers count the calls of this process.
type loggedCall struct {
	Event   string `json:"event"`
	Process int    `json:"pid"`
	sidecartest.Call
}

// logCalls appends calls to the file, each in one write, so that a killed process leaves whole
// lines.
func logCalls(out io.Writer, event string, stderr io.Writer) func(sidecartest.Call) {
	failed := false
	return func(c sidecartest.Call) {
		if slices.ContainsFunc(c.First, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }) {
			c.First = nil // JSON has no such numbers
		}
		line, err := json.Marshal(loggedCall{event, os.Getpid(), c})
		if err == nil {
			_, err = out.Write(append(line, '\n'))
		}
		if err != nil && !failed {
			failed = true
			fmt.Fprintf(stderr, "tensorferry mock-sidecar: %s: the log is incomplete from here on: %v\n", time.Now().Format(time.TimeOnly), err)
		}
	}
}
