// Package jsoncodec is the codec for records that are JSON objects: a [Mapping] says which field
// feeds which of the model's inputs and which field takes which output. Datatypes and shapes come
// from the model.
//
// A result is its record with the outputs' fields added: the record's own bytes are copied, so its
// fields keep their order, and its numbers every digit.
//
// Records are checked strictly: one object each, valid JSON throughout, each mapped field there
// exactly once and of the model's datatype and shape. Nothing is converted silently; what does not
// fit is an error of the record that names the field and what was expected.
//
// The package knows JSON and package tensor, and nothing of where records come from.
package jsoncodec
