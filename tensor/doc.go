// Package tensor is what records become on their way to a model and back: datatypes, shapes,
// a model's signature, batches of encoded rows, decoded answers, and the codecs between them and
// a job's own types.
//
// A [Codec] is bound to a model's [Signature] once, and gives a [RowCodec]. Its Encode appends one
// row to each [Column] of a [Batch]; the columns hold the very bytes that go into the request
// (little-endian, row-major), so nothing is copied or converted again. Its Decode reads one row of
// the [Rows] that came back, in place. In the steady state neither allocates.
//
// What is here checks its input: shapes and bytes come from users and from the network, and
// whatever they hold, the result is an error that says what was expected, never a panic,
// and what is allocated follows the size of the data, not of what a shape claims.
//
// The package knows nothing of requests, protocols, connections or jobs, and imports the standard
// library alone.
package tensor
