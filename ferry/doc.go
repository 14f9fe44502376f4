// Package ferry serves the operator of package async on a socket, for stream processors that are
// not written in Go. A [Server] accepts connections; each one is a subtask with an operator and a
// channel to a model server of its own. The other side sends rows and receives results. It decides
// nothing: batching, retries, holds and the meaning of failures are here.
//
// To run it as a process, use the command "tensorferry ferry". A program in Go does not need this
// package: it uses async and sidecar directly. The protocol is documented in docs/ferry.md, and
// the Java client for Apache Flink is in the folder java.
//
// A connection costs three goroutines and its operator. Its credit bounds the calls that have no
// answer yet (Config.MaxCalls and MaxBytes). It takes at most MaxBytes for these calls, as much for
// results in the operator, and twice that for results on the way out. Checkpoints, order across
// keys and the place of a record in a stream are the other side's.
package ferry
