// Package sidecartest runs a scripted sidecar for tests: the real server of
// package server, over an in-memory connection or a real socket, with the mock
// backend behind it, a fault at the call or the row that the script names, and a
// log of every call. It has no real sockets unless asked, starts no goroutine
// that outlives Close, and works in virtual time inside testing/synctest.
//
//	func TestJob(t *testing.T) {
//		s := sidecartest.Start(t, sidecartest.Script{Latency: 5 * time.Millisecond})
//		cfg := sidecar.Config{Endpoint: s.Endpoint(), Dialer: s.Dialer(), Model: s.Model()}
//		...
//		if n := s.Status().Connections; n != 0 { ... }
//	}
//
// It must never know the client or the jobs that it is used to test.
package sidecartest
