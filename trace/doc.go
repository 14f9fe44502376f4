// Package trace is what the project knows of distributed traces: the context that a record and a
// call carry (W3C Trace Context), and the hook by which a program hears of spans.
//
// It owns no spans, samples nothing and exports nothing: a [Tracer] does. Package trace/oteltrace
// makes one of an OpenTelemetry tracer provider. This package imports nothing but the standard
// library, and must never import more: every program that embeds an operator brings it along.
//
// Without a Tracer nothing here costs anything but a nil pointer in each record.
package trace
