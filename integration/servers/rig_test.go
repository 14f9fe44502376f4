//go:build integration

// Package servers runs the operator against model servers of other people: NVIDIA
// Triton, MLServer and KServe, each started here, on loopback, in a virtual
// environment of its own.
package servers

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tensorferry/tensorferry/internal/pyenv"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// kind is a model server.
type kind struct {
	name string
	// models are those that it serves, of testdata/models.py.
	models []string
	// leavesQueue says that a request that is cancelled before it is run never is.
	leavesQueue bool
	// run returns the command that serves them on loopback.
	run func(e *pyenv.Env, address, testdata, scratch string, grpcPort, httpPort int) []string
}

var kinds = []kind{
	{
		name:        "triton",
		models:      []string{"digits", "types", "ragged", "single", "large", "odd", "tiny", "hasty"},
		leavesQueue: true,
		run: func(e *pyenv.Env, address, testdata, scratch string, grpcPort, httpPort int) []string {
			return []string{"python", filepath.Join(testdata, "triton_run.py"), address, fmt.Sprint(grpcPort), fmt.Sprint(httpPort)}
		},
	},
	{
		name:   "mlserver",
		models: []string{"digits", "types", "ragged", "large", "odd", "untold"},
		run: func(e *pyenv.Env, address, testdata, scratch string, grpcPort, httpPort int) []string {
			return []string{"python", filepath.Join(testdata, "mlserver_run.py"), filepath.Join(scratch, "mlserver"), fmt.Sprint(grpcPort), fmt.Sprint(httpPort)}
		},
	},
	{
		name:   "kserve",
		models: []string{"digits", "types", "ragged", "large", "odd", "typed"},
		run: func(e *pyenv.Env, address, testdata, scratch string, grpcPort, httpPort int) []string {
			return []string{"python", filepath.Join(testdata, "kserve_run.py"), "--grpc_port", fmt.Sprint(grpcPort), "--http_port", fmt.Sprint(httpPort),
				"--workers", "1", "--grpc_max_receive_message_length", fmt.Sprint(64 << 20), "--grpc_max_send_message_length", fmt.Sprint(64 << 20)}
		},
	},
}

// server is a running model server. It keeps its address over restarts.
type server struct {
	kind
	t        *testing.T
	env      *pyenv.Env
	scratch  string
	more     []string
	grpcPort int
	httpPort int
	process  *pyenv.Process
	// socket is the path that Triton is given to listen on, empty: it listens on loopback. The
	// socket's own name is longer: see endpoint.
	socket string
	// sharing lets the tests of datatypes use shared memory.
	sharing bool
}

// serve starts a server and waits until all its models are ready. env is added to its environment.
func serve(t *testing.T, k kind, env ...string) *server {
	t.Helper()
	s := &server{kind: k, more: env, t: t, env: pyenv.Make(t, filepath.Join("testdata", k.name+".txt")), scratch: t.TempDir()}
	s.listen()
	s.start()
	return s
}

func (s *server) listen() { s.grpcPort, s.httpPort = freePort(s.t), freePort(s.t) }

func (s *server) start() {
	s.t.Helper()
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		s.t.Fatal(err)
	}
	root, err := pyenv.Root()
	if err != nil {
		s.t.Fatal(err)
	}
	address := "127.0.0.1"
	if s.socket != "" {
		address = "unix:" + s.socket
	}
	args := s.run(s.env, address, testdata, s.scratch, s.grpcPort, s.httpPort)
	cmd := s.env.Command(args[0], args[1:]...)
	cmd.Dir = s.scratch
	cmd.Env = append(cmd.Env, "DIGITS="+filepath.Join(root, "examples", "digits", "digits.onnx"),
		"EXECUTED="+s.executedFile(), "PYTHONPATH="+testdata, "HOME="+s.scratch)
	cmd.Env = append(cmd.Env, s.more...)
	s.process = pyenv.Start(s.t, cmd)
	client := s.dial(s.t)
	s.process.Eventually(s.name+" serves its models", func() bool {
		for _, m := range s.models {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			resp, err := client.ModelReady(ctx, &oip.ModelReadyRequest{Name: m})
			cancel()
			if err != nil || !resp.GetReady() {
				return false
			}
		}
		return true
	})
}

// endpoint is where it is reached. Triton puts the port after whatever address it is given.
func (s *server) endpoint() string {
	if s.socket != "" {
		return fmt.Sprintf("unix://%s:%d", s.socket, s.grpcPort)
	}
	return fmt.Sprintf("127.0.0.1:%d", s.grpcPort)
}

func (s *server) executedFile() string { return filepath.Join(s.scratch, "executed") }

// executed are the values that the model odd has begun to compute, as it wrote them.
func (s *server) executed() []string {
	text, err := os.ReadFile(s.executedFile())
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// dial returns a plain client of the protocol.
func (s *server) dial(t *testing.T) oip.GRPCInferenceServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(s.target(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20), grpc.MaxCallSendMsgSize(256<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return oip.NewGRPCInferenceServiceClient(conn)
}

func (s *server) target() string {
	if s.socket != "" {
		return s.endpoint()
	}
	return "passthrough:///" + s.endpoint()
}

// ask waits at most so long for one answer.
func ask(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// freePort returns a port that nobody listens on. Somebody may take it before it is used;
// then the server says so and the test fails.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
