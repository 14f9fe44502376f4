// Package connectortest checks what the runtime relies on in a connector. [Source] checks that a
// source can be read again from every position that it returned. [Job] checks that a job with the
// connector's source and sink keeps its guarantee whatever ends it.
//
// These functions must be called within testing/synctest, so that the time they wait is virtual.
package connectortest
