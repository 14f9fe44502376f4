package main

import (
	"errors"
	"flag"
	"fmt"

	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

// doorFlags adds the flags that bound what callers can make a sidecar hold.
func doorFlags(set *flag.FlagSet, cfg *server.Config) {
	decimalVar(set, &cfg.MaxConnections, "max-connections", server.DefaultMaxConnections, "most gRPC `CONNECTIONS` at once")
	decimalVar(set, &cfg.MaxCalls, "max-calls", server.DefaultMaxCalls, "most inference `CALLS` at once, each from its headers until its answer is read")
	set.DurationVar(&cfg.StreamIdleTimeout, "stream-idle-timeout", server.DefaultStreamIdleTimeout, "longest time without activity on a stream; then the stream is ended")
	set.DurationVar(&cfg.ReceiveTimeout, "receive-timeout", server.DefaultReceiveTimeout, "longest time for a request to arrive")
	decimalVar(set, &cfg.ReceiveBytes, "receive-bytes", server.DefaultReceiveBytes, "most `BYTES` of inference requests while they arrive, are unzipped and are decoded")
	decimalVar(set, &cfg.MaxRatio, "max-ratio", server.DefaultMaxRatio, "most `TIMES` by which a compressed request may grow when it is unzipped")
	decimalVar(set, &cfg.MaxTensors, "max-tensors", server.DefaultMaxTensors, "most `INPUTS` of a request, and most outputs")
	decimalVar(set, &cfg.MaxParameters, "max-parameters", server.DefaultMaxParameters, "most `PARAMETERS` of a request")
	decimalVar(set, &cfg.MaxDimensions, "max-dimensions", server.DefaultMaxDimensions, "most `DIMENSIONS` of a tensor")
	set.DurationVar(&cfg.AnswerTimeout, "answer-timeout", server.DefaultAnswerTimeout, "longest time for a caller to read an answer; then its connection is closed")
	decimalVar(set, &cfg.AnswerBytes, "answer-bytes", server.DefaultAnswerBytes, "most `BYTES` of inference answers that callers have not read yet")
	set.BoolVar(&cfg.SharedMemoryTCP, "shared-memory-over-tcp", false,
		"accept tensors in shared memory over loopback TCP too: every user of this machine may then read and write in /dev/shm what this process may")
	set.Var((*listFlag)(&cfg.Controllers), "model-control-from",
		"`CALLERS` that may load and unload models, with --model-control explicit: unix, for callers on a Unix socket; cert, for those with a client certificate; "+
			"cert:NAME, for those whose certificate has that name; may be repeated (default: every caller)")
}

// checkDoors reports what is wrong with the flags of doorFlags.
func checkDoors(cfg *server.Config) error {
	if cfg.StreamIdleTimeout <= 0 || cfg.ReceiveTimeout <= 0 || cfg.AnswerTimeout <= 0 || cfg.ReceiveBytes < 1 || cfg.AnswerBytes < 1 ||
		min(cfg.MaxConnections, cfg.MaxCalls, cfg.MaxRatio, cfg.MaxTensors, cfg.MaxParameters, cfg.MaxDimensions) < 1 {
		return errors.New("--max-connections, --max-calls, --stream-idle-timeout, --receive-timeout, --receive-bytes, --max-ratio, --max-tensors, --max-parameters, " +
			"--max-dimensions, --answer-timeout and --answer-bytes must be more than 0")
	}
	return nil
}

// checkPlain refuses to listen in plaintext on addresses that other machines may reach, unless the
// user allows it.
func checkPlain(endpoints []endpoint.Endpoint, plaintext bool) error {
	for _, e := range endpoints {
		if !plaintext && !e.Private() {
			return fmt.Errorf("--listen %s: other machines may reach this address, and anyone on the network between may read and change plaintext; "+
				"want --plaintext if you trust the network, or TLS (--tls-cert and --tls-key, which mock-sidecar does not have)", e)
		}
	}
	return nil
}
