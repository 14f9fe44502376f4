// Package sidecar is the client of a model server, the sidecar, that speaks the Open Inference
// Protocol over gRPC. [NewAsyncFunction] makes an async.Function of a model and a codec, through
// which an operator sends records:
//
//	classify := sidecar.NewAsyncFunction(sidecar.Config{
//		Endpoint: "unix:///run/model.sock",
//		Model:    "digits",
//	}, DigitCodec{})
//	for label, err := range async.Map(ctx, digits, classify, async.Config{}) { ... }
//
// Each subtask costs one connection and memory for Config.Window requests of at most
// Config.MaxBytes each, with their answers. Do not use the package for a model that runs in the
// same program: write an async.Function for it. Open refuses decoupled and stateful models, if the
// server says so.
//
// The package owns the connection (one for each subtask, reconnected with backoff), the gathering
// of records into requests, the splitting of requests that fail because of one bad record, and the
// meaning of every error that a server can answer ([Error]). It must never know what a record is,
// in which order results leave, or what happens to a record that failed. Those are the codec's and
// the operator's part.
//
// # Micro-batches
//
// There is no timer. While fewer requests are outstanding than Config.Window, the waiting records
// are sent at once. Otherwise records gather until an answer frees a place. At low load each
// request holds one record. At high load requests fill by themselves, up to Config.MaxBatch rows or
// Config.MaxBytes.
//
// # One bad record
//
// A request succeeds or fails as a whole. When the content of a request with several rows makes it
// fail, the rows that the server names fail, and the other rows are sent again. If the server names
// no row, the client sends halves of the request until it knows the rows that fail alone. These
// further requests do not count as attempts.
//
// Before it blames a row, the client asks the server whether the model is still the one that the
// codec was bound to. If the model was replaced in place by one with other tensors, every row looks
// bad. That is an ErrMismatch, and it is permanent.
//
// # A lost connection
//
// When the connection is lost, the package calls the operator's Suspend, and Resume when the server
// answers again. Records whose requests were in progress return to the operator and wait there.
// Nothing is lost, and each record waits for at most async.Config.Hold. A connection that goes
// silent, for example because a machine lost its power, is noticed before the records run out of
// time. A server that is only busy is not taken for lost as long as its operating system answers;
// see rule A73. An answer that a proxy made itself counts as a loss of the connection too.
// Inference is assumed to be repeatable; see Config.NonIdempotent.
package sidecar
