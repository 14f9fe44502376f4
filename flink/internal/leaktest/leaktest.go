// Package leaktest runs the tests of a package that uses Beam, and finds the goroutines that they
// leave. It is for TestMain alone.
package leaktest

import (
	"fmt"
	"os"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"go.uber.org/goleak"
)

// Goroutines of others that stay, as functions that they are in.
const (
	// LocalRunner is the server of Beam's local runner, which lasts as long as its process.
	LocalRunner = "google.golang.org/grpc.(*Server).Serve"
	// WorkerLog is a worker's logging to its runner: after an error it sleeps for 5 s before it
	// looks whether it is still wanted.
	WorkerLog = "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness.(*remoteWriter).Run"
)

// Main runs the tests and ends the process. Before it looks for goroutines it calls settle, which
// may be nil, to close what the package keeps. stay are goroutines that may be left.
func Main(m *testing.M, settle func(), stay ...string) {
	beam.Init()
	code := m.Run()
	if code == 0 {
		if settle != nil {
			settle()
		}
		if err := find(stay); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// find looks for goroutines that are left. The pools' own look once a second whether they are
// needed, so it is patient.
func find(stay []string) (err error) {
	var but []goleak.Option
	for _, s := range stay {
		but = append(but, goleak.IgnoreAnyFunction(s))
	}
	for range 10 {
		if err = goleak.Find(but...); err == nil {
			return nil
		}
	}
	return err
}
