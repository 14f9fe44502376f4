// Package jsoncodec is the codec for records that are JSON objects. A [Mapping] says which field
// feeds which of the model's inputs, and which field receives which output; [New] makes the codec
// of it. Datatypes and shapes come from the model. Each record is scanned once and each result is
// copied once. If records have a Go type of their own, write a tensor.Codec instead, which avoids
// the text.
//
// A result is its record with the outputs' fields added. The record's own bytes are copied, so its
// fields keep their order, and its numbers keep every digit.
//
// Records are checked strictly: one object each, valid JSON throughout, each mapped field there
// exactly once and with the model's datatype and shape. Nothing is converted silently. A value that
// does not fit is an error of the record that names the field and says what was expected.
//
// The package knows JSON and package tensor, and nothing about where records come from.
package jsoncodec
