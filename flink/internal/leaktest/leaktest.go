// Package leaktest runs the tests of a package that uses Beam, and finds goroutines that they leak.
// It is for TestMain only.
package leaktest

import (
	"fmt"
	"os"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"go.uber.org/goleak"
)

// Goroutines of Beam that stay, named by a function on their stack.
const (
	// LocalRunner is the server of Beam's local runner, which lasts as long as its process.
	LocalRunner = "google.golang.org/grpc.(*Server).Serve"
	// WorkerLog sends a worker's log to its runner. After an error it sleeps for 5 s before it
	// checks whether it should end.
	WorkerLog = "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness.(*remoteWriter).Run"
)

// Main runs the tests and ends the process. Before it looks for goroutines it calls settle, which
// may be nil, to close what the package keeps. stay names goroutines that may stay.
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

// find looks for leaked goroutines. It is patient, because the goroutines of the pools check only
// once a second whether they are still needed.
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
