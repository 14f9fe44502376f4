package endpoint_test

import (
	"fmt"

	"github.com/tensorferry/tensorferry/sidecar/endpoint"
)

func ExampleParse() {
	for _, s := range []string{"unix:///run/model.sock", "localhost:8001", "unix://run/model.sock"} {
		e, err := endpoint.Parse(s)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(e.Network, e.Address, e.GRPCTarget())
	}
	// Output:
	// unix /run/model.sock unix:///run/model.sock
	// tcp localhost:8001 dns:///localhost:8001
	// endpoint "unix://run/model.sock": the path must be absolute; write three slashes, as in unix:///run/model.sock
}
