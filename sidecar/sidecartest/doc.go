// Package sidecartest runs a scripted sidecar for tests: the real server of package server with the
// mock backend behind it, over an in-memory connection or a real socket. The script puts a fault at
// any call or row, and a log holds every call.
//
//	func TestJob(t *testing.T) {
//		s := sidecartest.Start(t, sidecartest.Script{Latency: 5 * time.Millisecond})
//		cfg := sidecar.Config{Endpoint: s.Endpoint(), Dialer: s.Dialer(), Model: s.Model()}
//		...
//		if n := s.Status().Connections; n != 0 { ... }
//	}
//
// It has no real sockets unless asked, starts no goroutine that outlives Close, and works in
// virtual time inside testing/synctest. The log keeps every call, so do not use it for load tests
// or in production. It must never know the client or the jobs that it is used to test.
package sidecartest
