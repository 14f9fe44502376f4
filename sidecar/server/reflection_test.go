package server_test

import (
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

func TestReflection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		services := func(cfg server.Config) ([]string, error) {
			r := serve(t, cfg, mock.Config{})
			stream, err := grpc_reflection_v1.NewServerReflectionClient(r.conn()).ServerReflectionInfo(t.Context())
			if err != nil {
				return nil, err
			}
			synctest.Wait() // if the server refuses the stream, Send finds it ended
			if err := sent(stream.Send(&grpc_reflection_v1.ServerReflectionRequest{
				MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})); err != nil {
				return nil, err
			}
			resp, err := stream.Recv()
			var names []string
			for _, s := range resp.GetListServicesResponse().GetService() {
				names = append(names, s.Name)
			}
			return names, err
		}
		names, err := services(server.Config{})
		for _, want := range []string{oip.GRPCInferenceService_ServiceDesc.ServiceName, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} {
			if err != nil || !slices.Contains(names, want) {
				t.Errorf("services %q, %v; want %s among them", names, err, want)
			}
		}
		if _, err := services(server.Config{NoReflection: true}); status.Code(err) != codes.Unimplemented {
			t.Errorf("without reflection: %v", err)
		}
	})
}
