// Package flink runs asynchronous functions on Apache Flink, through Beam's portable runner. Flink
// gives distribution, checkpoints, restarts and its web UI; Beam carries this operator, which is
// the one of package async, to Flink's workers.
//
//	func init() { flink.Register[Digit, Label, classify]() }
//
//	fn := classify{Endpoint: "unix:///run/model.sock"}
//	labels, failed := flink.Infer[Digit, Label](scope, digits, fn, flink.Config{})
//
// # Bundles and checkpoints
//
// Flink hands records over in bundles. At the end of a bundle the operator drains: everything in
// flight gets its outcome and leaves. A checkpoint ends the bundle before its barrier goes on
// (package submit asks for that), so nothing is in flight across a barrier, and the checkpoint
// holds no records of the operator. Between bundles nothing is in flight either, so long bundles
// are fast ones: submit.Options says how long they are.
//
// Results leave while a bundle goes on, as soon as the next record comes, and at its end.
//
// # Channels
//
// Each subtask works on a channel of its own to the model server. It is opened with the first
// bundle, and kept from bundle to bundle. Since Flink's workers do not say when a job ends, a
// channel that no bundle has used for IdleLimit is closed.
package flink

import "github.com/tensorferry/tensorferry/flink/internal/idle"

// IdleLimit is how long a channel to a model server stays open that no bundle uses.
const IdleLimit = idle.Limit
