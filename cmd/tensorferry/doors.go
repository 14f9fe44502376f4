package main

import (
	"errors"
	"flag"
	"fmt"

	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

// doorFlags are the flags of a sidecar that bound what callers can make it hold.
func doorFlags(set *flag.FlagSet, cfg *server.Config) {
	decimalVar(set, &cfg.MaxConnections, "max-connections", server.DefaultMaxConnections, "most gRPC `CONNECTIONS` at once")
	decimalVar(set, &cfg.MaxCalls, "max-calls", server.DefaultMaxCalls, "most `CALLS` for inference at once, from their headers until their answer is read")
	set.DurationVar(&cfg.StreamIdleTimeout, "stream-idle-timeout", server.DefaultStreamIdleTimeout, "how long a stream may be open on which nothing happens; then it is ended")
	set.DurationVar(&cfg.ReceiveTimeout, "receive-timeout", server.DefaultReceiveTimeout, "longest time in which a request arrives")
	decimalVar(set, &cfg.ReceiveBytes, "receive-bytes", server.DefaultReceiveBytes, "most `BYTES` of inferences that arrive, are unzipped and are decoded")
	decimalVar(set, &cfg.MaxRatio, "max-ratio", server.DefaultMaxRatio, "how many `TIMES` its size a compressed request may be")
	decimalVar(set, &cfg.MaxTensors, "max-tensors", server.DefaultMaxTensors, "most `INPUTS`, and outputs, of a request")
	decimalVar(set, &cfg.MaxParameters, "max-parameters", server.DefaultMaxParameters, "most `PARAMETERS` of a request")
	decimalVar(set, &cfg.MaxDimensions, "max-dimensions", server.DefaultMaxDimensions, "most `DIMENSIONS` of a tensor")
	set.DurationVar(&cfg.AnswerTimeout, "answer-timeout", server.DefaultAnswerTimeout, "longest time in which an answer is read; then its connection is closed")
	decimalVar(set, &cfg.AnswerBytes, "answer-bytes", server.DefaultAnswerBytes, "most `BYTES` of answers of inferences that are not read")
	set.BoolVar(&cfg.SharedMemoryTCP, "shared-memory-over-tcp", false,
		"take tensors in shared memory over loopback TCP too: then every user of this machine may read and write what this process may of /dev/shm")
	set.Var((*listFlag)(&cfg.Controllers), "model-control-from",
		"`WHO` may load and unload models, with --model-control explicit: unix, for callers on a Unix socket; cert, for those with a client certificate; "+
			"cert:NAME, for those whose certificate has that name; may be repeated (default: every caller)")
}

// checkDoors says what is wrong with what doorFlags read.
func checkDoors(cfg *server.Config) error {
	if cfg.StreamIdleTimeout <= 0 || cfg.ReceiveTimeout <= 0 || cfg.AnswerTimeout <= 0 || cfg.ReceiveBytes < 1 || cfg.AnswerBytes < 1 ||
		min(cfg.MaxConnections, cfg.MaxCalls, cfg.MaxRatio, cfg.MaxTensors, cfg.MaxParameters, cfg.MaxDimensions) < 1 {
		return errors.New("--max-connections, --max-calls, --stream-idle-timeout, --receive-timeout, --receive-bytes, --max-ratio, --max-tensors, --max-parameters, " +
			"--max-dimensions, --answer-timeout and --answer-bytes must be more than 0")
	}
	return nil
}

// checkPlain refuses to listen in plaintext where others than this machine may come, unless the
// user wants it so.
func checkPlain(endpoints []endpoint.Endpoint, plaintext bool) error {
	for _, e := range endpoints {
		if !plaintext && !e.Private() {
			return fmt.Errorf("--listen %s: others than this machine may reach it, and read and change what is sent there in plaintext; "+
				"give --tls-cert and --tls-key, or --plaintext if the network between is yours alone", e)
		}
	}
	return nil
}
