// Package server is the sidecar process: it takes inference requests over gRPC
// (the Open Inference Protocol, several of Triton's additions, and grpc.health.v1), admits as many
// as it has room for, gathers rows of all callers into batches, runs them on a
// backend, and answers each caller. It also serves /health and /metrics over HTTP.
//
// It serves any net.Listener, so a test may run it in memory and in virtual
// time; nothing is left of it when Shutdown or Close has returned.
//
// It must never know what a model computes (package backend does), who calls it
// or why: a job, a stream and its retries are the caller's affair.
package server
