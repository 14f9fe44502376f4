// Package trace defines the trace context that a record and a call carry (W3C Trace Context), and
// the interface through which a program receives spans, [Tracer].
//
// A program sets a Tracer in async.Config or stream.Config. Package trace/oteltrace makes one from
// an OpenTelemetry tracer provider. Without a Tracer, tracing costs one nil pointer in each record.
// A program that needs no traces does not use this package.
//
// The package records no spans, samples nothing and exports nothing: a Tracer does that. Every
// program that embeds an operator imports it. So it must never import anything outside the standard
// library, apart from internal packages of this module that do not either.
package trace
