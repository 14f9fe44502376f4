// Package sidecar is the client of a model server that speaks the Open Inference
// Protocol over gRPC: the sidecar. It makes an async.Function of a model and a
// codec, so that an operator can send records through the model.
//
//	classify := sidecar.NewAsyncFunction(sidecar.Config{
//		Endpoint: "unix:///run/model.sock",
//		Model:    "digits",
//	}, DigitCodec{})
//	for label, err := range async.Map(ctx, digits, classify, async.Config{}) { ... }
//
// It owns the connection (one a subtask, reconnected with backoff), the gathering
// of records into requests, the splitting of requests that fail over one bad
// record, and the meaning of every error that a server can answer (Error). It must
// never know what a record is, in which order results leave, or what becomes of a
// record that failed: that is the codec's and the operator's part.
//
// # Micro-batches
//
// There is no timer. While fewer requests are outstanding than Config.Window,
// what is at hand is sent; else records gather until an answer frees a place. At low load
// that is one record a request, at high load requests fill by themselves, up to
// Config.MaxBatch rows or Config.MaxBytes.
//
// # One bad record
//
// A request succeeds or fails whole. When one with several rows fails over its
// content, the rows that the server names fail and the others are sent again; if it
// names none, halves are sent until the rows that fail alone are known. These
// further requests count as no attempts.
//
// Before a row is blamed the server is asked whether the model is still the one that the codec was
// bound to. One that was replaced in place by a model with other tensors makes every row look bad,
// and is an ErrMismatch, for good.
//
// # A lost connection
//
// The operator is told with Suspend, and with Resume when the server answers again; records that
// were on their way are given back to wait there. Nothing is lost, and each waits for at most
// async.Config.Hold. A connection that goes silent, as when a machine loses its power, is noticed
// before the records' time is over, and so long as its system answers a server that is merely busy
// is told from it; see rule A73. A proxy's answers count as a loss as well. Inference is taken to
// be repeatable; see Config.NonIdempotent.
package sidecar
