package main

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials/insecure"
)

// TestPlaintextIsRefused: gRPC without TLS needs a flag on addresses that other machines may reach.
// Health may be served anywhere.
func TestPlaintextIsRefused(t *testing.T) {
	for _, f := range []struct {
		serve serveFunc
		args  []string
	}{{runSidecar, []string{"--model", "model=mock:double"}}, {runMockSidecar, nil}} {
		for _, at := range []string{"0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "example.org:0"} {
			var out, errs bytes.Buffer
			args := append([]string{"--listen", "127.0.0.1:0", "--listen", at}, f.args...)
			if code := f.serve(t.Context(), args, &out, &errs); code != exitUsage || !strings.Contains(errs.String(), "want --plaintext") || out.Len() > 0 {
				t.Errorf("%s: exit %d, %s", at, code, errs.String())
			}
		}
		s := serve(t, f.serve, 2, append([]string{"--listen", "0.0.0.0:0", "--plaintext", "--health", "0.0.0.0:0"}, f.args...)...)
		if err := inferDouble(t, s.grpcAt(0), insecure.NewCredentials()); err != nil {
			t.Error(err)
		}
		s.stop()
		s = serve(t, f.serve, 2, append([]string{"--listen", "localhost:0", "--health", "0.0.0.0:0"}, f.args...)...)
		s.stop()
	}
	cert, key, _, _ := certificateFiles(t)
	s := serve(t, runSidecar, 1, "--listen", "0.0.0.0:0", "--tls-cert", cert, "--tls-key", key, "--model", "model=mock:double")
	if code := s.stop(); code != exitOK {
		t.Errorf("with TLS: exit %d", code)
	}
}

// TestDoorFlags: a bound of the sidecar must be more than 0.
func TestDoorFlags(t *testing.T) {
	base := []string{"--listen", "127.0.0.1:0", "--model", "m=mock:double"}
	for _, c := range [][]string{
		{"--max-connections", "0"}, {"--max-calls", "0"}, {"--stream-idle-timeout", "0s"}, {"--receive-timeout", "0s"}, {"--receive-bytes", "0"}, {"--max-ratio", "0"}, {"--max-tensors", "0"},
		{"--max-parameters", "0"}, {"--max-dimensions", "0"}, {"--answer-timeout", "0s"}, {"--answer-bytes", "0"},
		{"--model-control-from", "unix"}, {"--model-control", "explicit", "--model-control-from", "root"}, {"--no-shared-memory", "--shared-memory-over-tcp"},
	} {
		var out, errs bytes.Buffer
		if code := runSidecar(t.Context(), append(base[:4:4], c...), &out, &errs); code != exitUsage || !strings.Contains(errs.String(), strings.TrimPrefix(c[len(c)-2], "--model-control")) &&
			!strings.Contains(errs.String(), "may not load models") {
			t.Errorf("%v: exit %d, %s", c, code, errs.String())
		}
	}
	s := serve(t, runSidecar, 1, append(base[:4:4], "--max-connections", "7", "--model-control", "explicit", "--model-control-from", "unix", "--model-control-from", "cert:ops",
		"--shared-memory-over-tcp")...)
	if code := s.stop(); code != exitOK || !strings.Contains(s.stderr.String(), "request_memory_bytes=") {
		t.Errorf("exit %d, %s", code, s.stderr.String())
	}
}
