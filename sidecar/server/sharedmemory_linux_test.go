package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

// object makes an object of shared memory for the test, and returns its key and file.
func object(t testing.TB, size int64) (string, *os.File) {
	t.Helper()
	name := "test-of-tensorferry-" + rand.Text()
	f, err := os.OpenFile(filepath.Join("/dev/shm", name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		os.Remove(f.Name())
	})
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return "/" + name, f
}

// sharing is a server and a caller with the region r of 4096 bytes, from 512 of its object.
func sharing(t *testing.T, cfg server.Config, mc mock.Config) (*rig, oip.GRPCInferenceServiceClient, *os.File) {
	t.Helper()
	r := serve(t, cfg, mc)
	c := r.caller()
	key, f := object(t, 8192)
	if _, err := c.SystemSharedMemoryRegister(t.Context(), &oip.SystemSharedMemoryRegisterRequest{Name: "r", Key: key, Offset: 512, ByteSize: 4096}); err != nil {
		t.Fatal(err)
	}
	return r, c, f
}

func placed(offset, size int) map[string]*oip.InferParameter {
	return map[string]*oip.InferParameter{"shared_memory_region": param("r"), "shared_memory_offset": param(offset), "shared_memory_byte_size": param(size)}
}

// askShared is ask with the input at an offset of the region.
func askShared(rows, offset int) *oip.ModelInferRequest {
	in := input("x", "FP32", int64(rows), 1)
	in.Parameters = placed(offset, 4*rows)
	return &oip.ModelInferRequest{ModelName: "m", Inputs: []*oip.ModelInferRequest_InferInputTensor{in}}
}

func TestSharedMemory(t *testing.T) {
	_, c, f := sharing(t, server.Config{}, mock.Config{})
	f.WriteAt(floats(1, 2, 3), 512+100)
	resp, err := c.ModelInfer(t.Context(), askShared(3, 100))
	doubled(t, resp, err, 1, 2, 3)

	// The answer goes to shared memory too, and only its place is written.
	before, _ := io.ReadAll(io.NewSectionReader(f, 0, 8192))
	req := askShared(3, 100)
	req.Outputs = output("y", placed(4000, 20))
	resp, err = c.ModelInfer(t.Context(), req)
	if err != nil || len(resp.RawOutputContents) != 1 || len(resp.RawOutputContents[0]) != 0 || fmt.Sprint(resp.Outputs[0].Shape) != "[3 1]" {
		t.Fatal(resp, err)
	}
	after, _ := io.ReadAll(io.NewSectionReader(f, 0, 8192))
	copy(before[4512:], floats(2, 4, 6))
	if !bytes.Equal(before, after) {
		t.Error("the object does not hold exactly the answer in its place")
	}

	// An input in the request beside an output in shared memory.
	req = ask(7)
	req.Outputs = output("y", placed(0, 4))
	if _, err := c.ModelInfer(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(io.NewSectionReader(f, 512, 4)); !bytes.Equal(got, floats(14)) {
		t.Errorf("% x", got)
	}

	st, err := c.SystemSharedMemoryStatus(t.Context(), &oip.SystemSharedMemoryStatusRequest{})
	if r := st.GetRegions()["r"]; err != nil || len(st.Regions) != 1 || r.Name != "r" || r.Offset != 512 || r.ByteSize != 4096 || !strings.HasSuffix(f.Name(), r.Key) {
		t.Error(st, err)
	}
	if _, err := c.SystemSharedMemoryUnregister(t.Context(), &oip.SystemSharedMemoryUnregisterRequest{Name: "r"}); err != nil {
		t.Error(err)
	}
	if _, err := c.ModelInfer(t.Context(), askShared(3, 100)); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "Unable to find shared memory region") {
		t.Error(err)
	}
	if _, err := c.SystemSharedMemoryStatus(t.Context(), &oip.SystemSharedMemoryStatusRequest{Name: "r"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

// Where the region is the same, requests whose tensors lie at different places share a batch.
func TestSharedMemoryBatches(t *testing.T) {
	r, c, f := sharing(t, server.Config{}, mock.Config{Latency: 50 * time.Millisecond})
	f.WriteAt(floats(sequence(0, 40)...), 512)
	done := make(chan error, 40)
	for i := range 40 {
		go func() {
			resp, err := c.ModelInfer(t.Context(), askShared(1, 4*i))
			doubled(t, resp, err, float32(i))
			done <- err
		}()
	}
	for range 40 {
		<-done
	}
	if runs, _ := r.model.Runs(); runs == 40 {
		t.Error("nothing was batched")
	}
}

// The server checks everything that callers state about shared memory. It never ends the process
// and never leads out of the region.
func TestSharedMemoryRefused(t *testing.T) {
	_, c, f := sharing(t, server.Config{QueueBytes: 2048}, mock.Config{})
	key, _ := object(t, 100)
	fifo := "test-of-tensorferry-" + rand.Text()
	link := filepath.Join("/dev/shm", fifo)
	if err := os.Symlink("/etc/hostname", link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(link) })
	for _, c2 := range []struct {
		name, key    string
		offset, size uint64
		code         codes.Code
	}{
		{"r", key, 0, 100, codes.AlreadyExists},
		{"", key, 0, 100, codes.InvalidArgument},
		{"a", key, 0, 0, codes.InvalidArgument},
		{"a", key, 0, 101, codes.InvalidArgument},
		{"a", key, 1, 100, codes.InvalidArgument},
		{"a", key, 1<<64 - 1, 2, codes.InvalidArgument},
		{"a", key, 2, 1<<64 - 1, codes.InvalidArgument},
		{"a", "/tensorferry-none", 0, 1, codes.InvalidArgument},
		{"a", "../../etc/passwd", 0, 1, codes.InvalidArgument},
		{"a", "/../shm" + key, 0, 1, codes.InvalidArgument},
		{"a", "/a/b", 0, 1, codes.InvalidArgument},
		{"a", "//" + key[1:], 0, 1, codes.InvalidArgument},
		{"a", "", 0, 1, codes.InvalidArgument},
		{"a", "/", 0, 1, codes.InvalidArgument},
		{"a", "..", 0, 1, codes.InvalidArgument},
		{"a", ".", 0, 1, codes.InvalidArgument},
		{"a", "a\x00b", 0, 1, codes.InvalidArgument},
		{"a", strings.Repeat("a", 300), 0, 1, codes.InvalidArgument},
		{"a", "/" + fifo, 0, 1, codes.InvalidArgument},
	} {
		_, err := c.SystemSharedMemoryRegister(t.Context(), &oip.SystemSharedMemoryRegisterRequest{Name: c2.name, Key: c2.key, Offset: c2.offset, ByteSize: c2.size})
		if status.Code(err) != c2.code {
			t.Errorf("%+v: %v", c2, err)
		}
	}
	for name, change := range map[string]func(*oip.ModelInferRequest){
		"beyond the end":      func(m *oip.ModelInferRequest) { m.Inputs[0].Parameters = placed(4093, 4) },
		"overflow":            func(m *oip.ModelInferRequest) { m.Inputs[0].Parameters["shared_memory_offset"] = param(1<<63 - 1) },
		"negative":            func(m *oip.ModelInferRequest) { m.Inputs[0].Parameters = placed(-4, 4) },
		"no size":             func(m *oip.ModelInferRequest) { delete(m.Inputs[0].Parameters, "shared_memory_byte_size") },
		"no region":           func(m *oip.ModelInferRequest) { delete(m.Inputs[0].Parameters, "shared_memory_region") },
		"region of a number":  func(m *oip.ModelInferRequest) { m.Inputs[0].Parameters["shared_memory_region"] = param(1) },
		"offset of text":      func(m *oip.ModelInferRequest) { m.Inputs[0].Parameters["shared_memory_offset"] = param("1") },
		"wrong size":          func(m *oip.ModelInferRequest) { m.Inputs[0].Parameters = placed(0, 8) },
		"bytes too":           func(m *oip.ModelInferRequest) { m.RawInputContents = [][]byte{floats(1)} },
		"output too small":    func(m *oip.ModelInferRequest) { m.Outputs = output("y", placed(0, 3)) },
		"output out of range": func(m *oip.ModelInferRequest) { m.Outputs = output("y", placed(4095, 4)) },
	} {
		req := askShared(1, 0)
		change(req)
		if _, err := c.ModelInfer(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.ModelInfer(t.Context(), askShared(513, 0)); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("more than may wait: %v", err)
	}
	// The caller makes the object smaller behind the server's back.
	if err := f.Truncate(600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ModelInfer(t.Context(), askShared(10, 60)); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "smaller") {
		t.Errorf("truncated: %v", err)
	}
	resp, err := c.ModelInfer(t.Context(), askShared(2, 0))
	doubled(t, resp, err, 0, 0)
}

// A region that is unregistered while a request uses it still serves that request, and is then
// closed.
func TestSharedMemoryUnregisteredInUse(t *testing.T) {
	r, c, f := sharing(t, server.Config{}, mock.Config{Latency: 300 * time.Millisecond})
	f.WriteAt(floats(5), 512)
	open := func() int {
		n := 0
		fds, _ := os.ReadDir("/proc/self/fd")
		for _, fd := range fds {
			if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); to == f.Name() {
				n++
			}
		}
		return n - 1 // the test's own
	}
	if open() != 1 {
		t.Fatalf("%d descriptors", open())
	}
	req := askShared(1, 0)
	req.Outputs = output("y", placed(8, 4))
	done := make(chan error)
	go func() {
		_, err := c.ModelInfer(t.Context(), req)
		done <- err
	}()
	for runs := int64(0); runs == 0; runs, _ = r.model.Runs() {
	}
	if _, err := c.SystemSharedMemoryUnregister(t.Context(), &oip.SystemSharedMemoryUnregisterRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(io.NewSectionReader(f, 520, 4)); !bytes.Equal(got, floats(10)) {
		t.Errorf("% x", got)
	}
	// The lease ends a moment after the answer, at the latest with the server.
	r.srv.Close()
	if open() != 0 {
		t.Errorf("%d descriptors are left", open())
	}
}

// A caller that makes its object smaller gets an error, and the object stays as it is.
func TestSharedMemoryCutOff(t *testing.T) {
	_, c, f := sharing(t, server.Config{}, mock.Config{})
	if err := f.Truncate(100); err != nil {
		t.Fatal(err)
	}
	toIt, fromIt := ask(7), askShared(1, 4000)
	toIt.Outputs = output("y", placed(4000, 4))
	for _, req := range []*oip.ModelInferRequest{toIt, fromIt} {
		_, err := c.ModelInfer(t.Context(), req)
		if d := oip.Parse(err); d.Code != codes.InvalidArgument || !strings.Contains(d.Message, "shared memory") || !strings.Contains(d.Message, "smaller") {
			t.Error(err)
		}
	}
	if st, err := f.Stat(); err != nil || st.Size() != 100 {
		t.Errorf("%v; the object has %d bytes", err, st.Size())
	}
}

// If shared memory is switched off the server says so. Any server refuses a caller on another
// machine.
func TestSharedMemoryOff(t *testing.T) {
	r := serve(t, server.Config{NoSharedMemory: true}, mock.Config{})
	c := r.caller()
	key, _ := object(t, 100)
	register := func(c oip.GRPCInferenceServiceClient) error {
		_, err := c.SystemSharedMemoryRegister(t.Context(), &oip.SystemSharedMemoryRegisterRequest{Name: "r", Key: key, ByteSize: 100})
		return err
	}
	if d := oip.Parse(register(c)); d.Code != codes.Unimplemented || d.Reason != oip.ReasonUnsupportedFeature {
		t.Errorf("%+v", d)
	}
	if _, err := c.ModelInfer(t.Context(), askShared(1, 0)); status.Code(err) != codes.Unimplemented {
		t.Error(err)
	}

	// A listener whose callers seem to come from another machine.
	srv, err := server.New(server.Config{Models: []server.Model{{Name: "m", Location: "mock:double"}},
		Backends: backend.Registry{Schemes: map[string]backend.Loader{"mock": mock.Loader()}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	l := bufconn.Listen(1 << 16)
	if err := srv.Start(elsewhere{l}); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///m", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := register(oip.NewGRPCInferenceServiceClient(conn)); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "another machine") {
		t.Error(err)
	}
}

// elsewhere is a listener whose connections say that they come from another machine.
type elsewhere struct{ net.Listener }

func (l elsewhere) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return farConn{c}, err
}

type farConn struct{ net.Conn }

func (farConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5} }
