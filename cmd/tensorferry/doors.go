package main

import (
	"errors"
	"flag"

	"github.com/tensorferry/tensorferry/sidecar/server"
)

// doorFlags are the flags of a sidecar that bound what callers can make it hold.
func doorFlags(set *flag.FlagSet, cfg *server.Config) {
	decimalVar(set, &cfg.MaxConnections, "max-connections", server.DefaultMaxConnections, "most gRPC `CONNECTIONS` at once")
	decimalVar(set, &cfg.MaxCalls, "max-calls", server.DefaultMaxCalls, "most `CALLS` for inference at once, from their headers until their answer is read")
	set.DurationVar(&cfg.ReceiveTimeout, "receive-timeout", server.DefaultReceiveTimeout, "longest time in which a request arrives")
	decimalVar(set, &cfg.ReceiveBytes, "receive-bytes", server.DefaultReceiveBytes, "most `BYTES` of requests that arrive, are unzipped and are decoded")
	decimalVar(set, &cfg.MaxRatio, "max-ratio", server.DefaultMaxRatio, "how many `TIMES` its size a compressed request may be")
	decimalVar(set, &cfg.MaxTensors, "max-tensors", server.DefaultMaxTensors, "most `INPUTS`, and outputs, of a request")
	decimalVar(set, &cfg.MaxParameters, "max-parameters", server.DefaultMaxParameters, "most `PARAMETERS` of a request")
	decimalVar(set, &cfg.MaxDimensions, "max-dimensions", server.DefaultMaxDimensions, "most `DIMENSIONS` of a tensor")
	set.DurationVar(&cfg.AnswerTimeout, "answer-timeout", server.DefaultAnswerTimeout, "longest time in which an answer is read; then its connection is closed")
	decimalVar(set, &cfg.AnswerBytes, "answer-bytes", server.DefaultAnswerBytes, "most `BYTES` of answers that are not read")
}

// checkDoors says what is wrong with what doorFlags read.
func checkDoors(cfg *server.Config) error {
	if cfg.ReceiveTimeout <= 0 || cfg.AnswerTimeout <= 0 || cfg.ReceiveBytes < 1 || cfg.AnswerBytes < 1 ||
		min(cfg.MaxConnections, cfg.MaxCalls, cfg.MaxRatio, cfg.MaxTensors, cfg.MaxParameters, cfg.MaxDimensions) < 1 {
		return errors.New("--max-connections, --max-calls, --receive-timeout, --receive-bytes, --max-ratio, --max-tensors, --max-parameters, " +
			"--max-dimensions, --answer-timeout and --answer-bytes must be more than 0")
	}
	return nil
}
