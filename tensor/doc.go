// Package tensor holds what records become on their way to a model and back: datatypes, shapes, a
// model's signature, batches of encoded rows, decoded answers, and the codecs between them and a
// job's own types. To connect a type to a model, write a [Codec], or use [Values] for one numeric
// input and one output. To send records to a server, use package sidecar, which calls the codec.
//
// A Codec is bound once to a model's [Signature] and returns a [RowCodec]. Its Encode appends one
// row to each [Column] of a [Batch]. The columns hold the very bytes that go into the request
// (little-endian, row-major), so nothing is copied or converted again. Its Decode reads one row of
// the [Rows] that the server returned, in place. After the first batches neither allocates. The
// package is not a numeric library: it has no arithmetic and no views besides slices of rows.
//
// All functions check their input, because shapes and bytes come from users and from the network.
// Bad input causes an error that says what was expected, never a panic. The memory that is
// allocated follows the size of the data, not the size that a shape claims.
//
// The package knows nothing of requests, protocols, connections or jobs, and imports only the
// standard library.
package tensor
