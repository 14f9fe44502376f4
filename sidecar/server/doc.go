// Package server is the sidecar: a process that answers inference requests over gRPC. It speaks the
// Open Inference Protocol, several of Triton's additions, and grpc.health.v1. It admits as many
// requests as it has room for, gathers rows of all callers into batches, runs them on a backend,
// and answers each caller. It also serves /health and /metrics over HTTP. Make one with [New],
// start it with [Server.Serve], and end it by ending the context; the command tensorferry does
// so.
//
// It costs the models, one batch for each instance of a model, and the memory for requests that
// [Server.RequestMemory] states. Do not use it for decoupled or stateful models, or where Triton
// already serves them: package sidecar calls any server of the protocol.
//
// The server takes any net.Listener, so a test may run it in memory and in virtual time. Nothing of
// it is left when Shutdown or Close has returned without an error.
//
// It must never know what a model computes (package backend does), who calls it or why. Jobs,
// streams and retries are the caller's part.
package server
