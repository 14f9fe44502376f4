// Package oip is the Open Inference Protocol, version 2, over gRPC: its messages, its service
// GRPCInferenceService, and the conversions between them and package tensor. NVIDIA Triton, KServe,
// OpenVINO Model Server and MLServer serve the same protocol. A client fills a [Request] from a
// [tensor.Batch], calls ModelInfer, and reads the answer with [FillRows]. Neither step copies raw
// tensors. Typed contents, which answers may have instead, are converted and so copied.
//
// Use package sidecar to call a model from a job: this package knows nothing of connections,
// retries or jobs. A program that links another copy of the protocol must read the section below.
//
// [SignatureOf] reads a model's metadata. [Error] makes the structured errors, and [Parse] reads
// them: a gRPC status with google.rpc.ErrorInfo, RetryInfo and BadRequest. Everything that the
// other side sends is checked; if it is wrong, the function returns an error.
//
// # Two copies of the protocol in one program
//
// Protobuf keeps one registry for the whole program, by message name. A program that links this
// package and another one generated from the protocol (for example Triton's or KServe's client)
// registers inference.ModelInferRequest twice and panics at start. There are two ways out. Use the
// messages of this package on both sides: they have the protocol's own field numbers, so they talk
// to every server. Or set GOLANG_PROTOBUF_REGISTRATION_CONFLICT=warn in the program's environment,
// or link it with
//
//	-ldflags "-X google.golang.org/protobuf/reflect/protoregistry.conflictPolicy=warn"
//
// Then the first registration wins for lookups by name, and this package needs no such lookup. The
// path under which it registers its .proto file is its own, so the file itself conflicts with no
// other file.
package oip

//go:generate ./generate.sh
