package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

type serveFunc func(ctx context.Context, args []string, stdout, stderr io.Writer) int

// safeBuffer is a buffer that the server writes while the test reads.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// serving is a server command that runs in this process.
type serving struct {
	t      *testing.T
	ready  []string // what the lines say, without "ready: "
	stderr safeBuffer
	stop   func() int
}

// serve starts the command and waits for as many lines as it has endpoints.
func serve(t *testing.T, f serveFunc, lines int, args ...string) *serving {
	t.Helper()
	s := &serving{t: t}
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	code := make(chan int, 1)
	go func() {
		c := f(ctx, args, in, &s.stderr)
		in.Close()
		code <- c
	}()
	s.stop = sync.OnceValue(func() int { cancel(); return <-code })
	t.Cleanup(func() { s.stop() })
	scanner := bufio.NewScanner(out)
	for range lines {
		if !scanner.Scan() {
			t.Fatalf("it ended with %d before it was ready: %s", s.stop(), s.stderr.String())
		}
		line, ok := strings.CutPrefix(scanner.Text(), "ready: ")
		if !ok {
			t.Fatalf("it printed %q", scanner.Text())
		}
		s.ready = append(s.ready, line)
	}
	return s
}

func (s *serving) grpcAt(i int) string {
	at, ok := strings.CutPrefix(s.ready[i], "gRPC on ")
	if !ok {
		s.t.Fatalf("line %d is %q", i, s.ready[i])
	}
	e, err := endpoint.Parse(at)
	if err != nil {
		s.t.Fatal(err)
	}
	return e.GRPCTarget()
}

func inferDouble(t *testing.T, target string, creds credentials.TransportCredentials) error {
	t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := oip.NewGRPCInferenceServiceClient(conn).ModelInfer(t.Context(), &oip.ModelInferRequest{ModelName: "model",
		Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{1, 1},
			Contents: &oip.InferTensorContents{Fp32Contents: []float32{1}}}}})
	if err == nil && !bytes.Equal(resp.GetRawOutputContents()[0], []byte{0, 0, 0, 0x40}) {
		t.Errorf("twice 1 is %v", resp)
	}
	return err
}

func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestSidecarServesUntilToldToStop(t *testing.T) {
	socket := filepath.Join(socketDir(t), "s.sock")
	s := serve(t, runSidecar, 3, "--listen", "unix://"+socket, "--listen", "127.0.0.1:0", "--health", "127.0.0.1:0",
		"--model", "model=mock:double", "--model", "digits=../../sidecar/backend/onnx/testdata/digits.onnx?fixed_batch=4",
		"--max-batch", "8", "--window", "0", "--queue-rows", "100", "--queue-bytes", "1000000", "--queue-timeout", "1s", "--grace", "1s")
	for i := range 2 {
		if err := inferDouble(t, s.grpcAt(i), insecure.NewCredentials()); err != nil {
			t.Error(err)
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + strings.TrimPrefix(s.ready[2], "health on ") + "/health")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 200 || string(body) != "READY\n" {
		t.Errorf("health: %d %q, %v", resp.StatusCode, body, err)
	}
	conn, err := grpc.NewClient(s.grpcAt(0), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	meta, err := oip.NewGRPCInferenceServiceClient(conn).ModelMetadata(t.Context(), &oip.ModelMetadataRequest{Name: "digits"})
	if err != nil || meta.Inputs[0].Name != "pixels" {
		t.Errorf("metadata of digits: %v, %v", meta, err)
	}
	if code := s.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, s.stderr.String())
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestSidecarRefusals(t *testing.T) {
	plain := filepath.Join(socketDir(t), "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, exitUsage, "--listen is missing"},
		{[]string{"--nonsense"}, exitUsage, "--nonsense"},
		{[]string{"--listen", "127.0.0.1:0"}, exitUsage, "--model and --repository are missing"},
		{[]string{"--listen", "127.0.0.1:0", "extra"}, exitUsage, `unexpected argument "extra"`},
		{[]string{"--listen", "nowhere", "--model", "m=mock:double"}, exitUsage, "missing port"},
		{[]string{"--listen", "127.0.0.1:0", "--model", "m"}, exitUsage, "want NAME=FILE"},
		{[]string{"--listen", "127.0.0.1:0", "--model", "m=x.pt"}, exitUsage, `no backend for a file with the extension ".pt"`},
		{[]string{"--listen", "127.0.0.1:0", "--model", "m=mock:double", "--model", "m=mock:sum"}, exitUsage, `two models have the name "m"`},
		{[]string{"--listen", "127.0.0.1:0", "--model", "m@=mock:double"}, exitUsage, "want NAME@VERSION=FILE"},
		{[]string{"--listen", "127.0.0.1:0", "--model", "m=mock:double", "--warm-up", "0"}, exitUsage, "--warm-up"},
		{[]string{"--listen", "127.0.0.1:0", "--model", "m=mock:double", "--load", "m"}, exitUsage, "--load needs --repository"},
		{[]string{"--listen", "127.0.0.1:0", "--model", "m=mock:double", "--model-control", "poll"}, exitUsage, "want none or explicit"},
		{[]string{"--listen", "127.0.0.1:0", "--repository", "/nowhere/at/all"}, exitUsage, "the model repository"},
		{[]string{"--listen", "127.0.0.1:0", "--model", "m=mock:double", "--max-batch", "0"}, exitUsage, "--max-batch"},
		{[]string{"--listen", "127.0.0.1:0", "--model", "m=mock:double", "--tls-cert", "x"}, exitUsage, "both --tls-cert and --tls-key"},
		{[]string{"--listen", "127.0.0.1:0", "--model", "m=none.onnx"}, exitFailed, "none.onnx"},
		{[]string{"--listen", "unix://" + plain, "--model", "m=mock:double"}, exitFailed, "not a socket"},
		{[]string{"--listen", "127.0.0.1:0", "--model", "m=mock:double", "--health", "unix:///x"}, exitFailed, "--health"},
	} {
		var out, errs bytes.Buffer
		if code := runSidecar(t.Context(), c.args, &out, &errs); code != c.code || !strings.Contains(errs.String(), c.says) || out.Len() > 0 {
			t.Errorf("%q: exit %d, stderr %q, stdout %q; want %d and %q", c.args, code, errs.String(), out.String(), c.code, c.says)
		}
	}
	for _, f := range []serveFunc{runSidecar, runMockSidecar} {
		var out, errs bytes.Buffer
		if code := f(t.Context(), []string{"-h"}, &out, &errs); code != exitOK || !strings.Contains(out.String(), "--listen ENDPOINT") || errs.Len() > 0 {
			t.Errorf("-h: exit %d, %q, %q", code, out.String(), errs.String())
		}
	}
}

// A model that fails to load leaves the others serving, unless --strict.
func TestSidecarServesWithoutAModelThatFails(t *testing.T) {
	args := []string{"--listen", "127.0.0.1:0", "--health", "127.0.0.1:0", "--model", "model=mock:double", "--model", "broken=none.onnx"}
	s := serve(t, runSidecar, 2, args...)
	if err := inferDouble(t, s.grpcAt(0), insecure.NewCredentials()); err != nil {
		t.Error(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{"": "200 READY\nbroken FAILED\n", "/model": "200 READY\n", "/broken": "503 NOT_READY\n"} {
		resp, err := client.Get("http://" + strings.TrimPrefix(s.ready[1], "health on ") + "/health" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := fmt.Sprintf("%d %s", resp.StatusCode, body); err != nil || got != want {
			t.Errorf("/health%s: %q, %v; want %q", path, got, err, want)
		}
	}
	var out, errs bytes.Buffer
	code := runSidecar(t.Context(), append(args, "--strict"), &out, &errs)
	if code != exitFailed || !strings.Contains(errs.String(), `model "broken"`) || out.Len() > 0 {
		t.Errorf("with --strict: exit %d, stderr %q, stdout %q", code, errs.String(), out.String())
	}
}

// certificateFiles makes a certificate for 127.0.0.1 that is its own authority.
func certificateFiles(t *testing.T) (cert, key string, certPEM, keyPEM []byte) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := os.WriteFile(cert, certPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, keyPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	return cert, key, certPEM, keyPEM
}

func TestSidecarTLS(t *testing.T) {
	dir := socketDir(t)
	cert, key, certPEM, keyPEM := certificateFiles(t)
	s := serve(t, runSidecar, 2, "--listen", "127.0.0.1:0", "--listen", "unix://"+filepath.Join(dir, "s.sock"), "--model", "model=mock:double",
		"--tls-cert", cert, "--tls-key", key, "--tls-client-ca", cert)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	with := credentials.NewTLS(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	without := credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	if err := inferDouble(t, s.grpcAt(0), with); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	if err := inferDouble(t, s.grpcAt(0), without); err == nil {
		t.Error("a client without a certificate was served")
	}
	if err := inferDouble(t, s.grpcAt(0), insecure.NewCredentials()); err == nil {
		t.Error("a client without TLS was served")
	}
	if err := inferDouble(t, s.grpcAt(1), insecure.NewCredentials()); err != nil {
		t.Errorf("over the Unix socket: %v", err)
	}
}

func TestMockSidecar(t *testing.T) {
	dir := socketDir(t)
	log := filepath.Join(dir, "calls.jsonl")
	s := serve(t, runMockSidecar, 1, "--listen", "unix://"+filepath.Join(dir, "s.sock"), "--latency", "1ms", "--per-row", "1us", "--jitter", "1ms",
		"--seed", "7", "--fail", "RESOURCE_EXHAUSTED/QUEUE_FULL@2,retry=5ms", "--fail-backend", "panic@2", "--log", log)
	var reasons []string
	for range 4 {
		reasons = append(reasons, oip.Parse(inferDouble(t, s.grpcAt(0), insecure.NewCredentials())).Reason)
	}
	if want := []string{"", oip.ReasonQueueFull, oip.ReasonBackendError, ""}; !slices.Equal(reasons, want) {
		t.Errorf("reasons %q, want %q", reasons, want)
	}
	if code := s.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, s.stderr.String())
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) != 8 {
		t.Fatalf("%d lines for 4 calls:\n%s", len(lines), data)
	}
	for i, text := range lines {
		var line loggedCall
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		event := []string{"start", "end"}[i%2]
		if line.Event != event || line.Number != int64(i/2+1) || line.Rows != 1 || !slices.Equal(line.First, []float64{1}) ||
			line.Start != int64(i/2*2+1) || event == "end" && line.End != line.Start+1 || line.Connection != uint64(i/2+1) {
			t.Errorf("line %d: %s", i, text)
		}
	}
	var out, errs bytes.Buffer
	for _, args := range [][]string{{"--listen", "x"}, {"--listen", "127.0.0.1:0", "--fail", "x"}, {"--listen", "127.0.0.1:0", "--input", "x"}} {
		if code := runMockSidecar(t.Context(), args, &out, &errs); code != exitUsage {
			t.Errorf("%q: exit code %d", args, code)
		}
	}
	if code := runMockSidecar(t.Context(), []string{"--listen", "127.0.0.1:0", "--function", "triple"}, &out, &errs); code != exitFailed ||
		!strings.Contains(errs.String(), "double, echo, sum or hash") {
		t.Errorf("an unknown function: exit code %d, %s", code, errs.String())
	}
}

// A repository on disk, served by the command: versions, and a load by request.
func TestSidecarRepository(t *testing.T) {
	dir := t.TempDir()
	model, err := os.ReadFile("../../examples/digits/digits.onnx")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"one/1", "one/2", "two/1"} {
		if err := os.MkdirAll(filepath.Join(dir, v), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, v, "model.onnx"), model, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, runSidecar, 1, "--listen", "127.0.0.1:0", "--repository", dir, "--model-control", "explicit", "--load", "one",
		"--model", "m@3=mock:double", "--warm-up", "1,4,max")
	conn, err := grpc.NewClient(s.grpcAt(0), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := oip.NewGRPCInferenceServiceClient(conn)
	states := func() (out []string) {
		resp, err := c.RepositoryIndex(t.Context(), &oip.RepositoryIndexRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range resp.Models {
			out = append(out, strings.TrimSpace(m.Name+" "+m.Version+" "+m.State))
		}
		return out
	}
	if got := states(); !slices.Equal(got, []string{"m 3 READY", "one 1 READY", "one 2 READY", "two"}) {
		t.Errorf("at the start: %q", got)
	}
	if _, err := c.RepositoryModelLoad(t.Context(), &oip.RepositoryModelLoadRequest{ModelName: "two"}); err != nil {
		t.Error(err)
	}
	if got := states(); !slices.Contains(got, "two 1 READY") {
		t.Errorf("after the load: %q", got)
	}
	if code := s.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, s.stderr.String())
	}
	if !strings.Contains(s.stderr.String(), "[1 4 256]") {
		t.Errorf("no warm-up of 1, 4 and 256 rows: %s", s.stderr.String())
	}
}
