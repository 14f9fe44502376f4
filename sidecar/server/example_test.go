package server_test

import (
	"context"
	"fmt"
	"log"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

// A program that brings its own sidecar.
func Example() {
	srv, err := server.New(server.Config{
		Models:   []server.Model{{Name: "double", Location: "mock:double?latency=1ms"}},
		Backends: backend.Registry{Schemes: map[string]backend.Loader{"mock": mock.Loader()}},
	})
	if err != nil {
		log.Fatal(err)
	}
	at, err := endpoint.Parse("127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	l, err := at.Listen()
	if err != nil {
		log.Fatal(err)
	}
	if err := srv.Start(l); err != nil {
		log.Fatal(err)
	}
	if err := srv.WaitReady(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready:", srv.Ready())
	if err := srv.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready:", srv.Ready())
	// Output:
	// ready: true
	// ready: false
}
