// Package flink runs asynchronous functions on Apache Flink, through Beam's portable runner. Flink
// provides distribution, checkpoints, restarts and its web UI. Beam carries this operator, which is
// the one of package async, to Flink's workers. Register the types, and call Infer in a pipeline:
//
//	func init() { flink.Register[Digit, Label, classify]() }
//
//	fn := classify{Endpoint: "unix:///run/model.sock"}
//	labels, failed := flink.Infer[Digit, Label](scope, digits, fn, flink.Config{})
//
// Each record crosses between Flink's Java process and the Go worker, and each bundle ends with a
// drain. For a job that one machine can run, package stream is faster and needs no cluster. To run
// a job file on Flink, use package jobfile; package submit hands pipelines to the cluster.
//
// # Bundles and checkpoints
//
// Flink passes records to the operator in bundles. At the end of a bundle the operator drains: each
// call in flight gets its outcome, and the result leaves. A checkpoint ends the bundle before its
// barrier continues (package submit sets the option for that), so nothing is in flight across a
// barrier, and the checkpoint holds no records of the operator. Nothing is in flight between
// bundles either, so long bundles are fast ones. submit.Options sets their length.
//
// During a bundle, results leave as soon as the next record arrives, and the last ones at its end.
//
// # Channels
//
// Each subtask has its own channel to the model server. It is opened with the first bundle and kept
// from bundle to bundle. Flink's workers do not say when a job ends, so a channel that no bundle
// has used for IdleLimit is closed.
package flink

import "github.com/tensorferry/tensorferry/flink/internal/idle"

// IdleLimit is how long a channel to a model server stays open without use by a bundle.
const IdleLimit = idle.Limit
