// Package oip is the Open Inference Protocol, version 2, over gRPC: the messages and the service
// GRPCInferenceService, which NVIDIA Triton, KServe, OpenVINO Model Server and MLServer serve too,
// and what stands between them and package tensor.
//
// Tensors travel raw, as the columns of a [tensor.Batch] already lie in memory; [Request] puts them
// into a message without a copy. Answers may come raw or as typed contents; [FillRows] takes both.
// [SignatureOf] reads a model's metadata. [Error] and [Parse] are the two ends of the structured
// errors: a gRPC status with google.rpc.ErrorInfo, RetryInfo and BadRequest.
//
// Whatever the other side sends is checked, and is an error if it is wrong. The package knows
// nothing of connections, retries or jobs.
//
// # Two copies of the protocol in one program
//
// Protobuf keeps one registry for the whole program, by message name. A program that links this
// package and another one generated from the protocol (Triton's or KServe's client, say) registers
// inference.ModelInferRequest twice and panics at start. There are two ways out. Use the messages
// of this package on both sides: they have the protocol's own field numbers, so they talk to every
// server. Or set GOLANG_PROTOBUF_REGISTRATION_CONFLICT=warn in the program's environment, or link
// it with
//
//	-ldflags "-X google.golang.org/protobuf/reflect/protoregistry.conflictPolicy=warn"
//
// Then the first registration wins for lookups by name, which nothing here needs. The path under
// which this package registers its .proto file is its own, so the file itself conflicts with no
// other.
package oip

//go:generate ./generate.sh
