package main

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

// A sidecar notifies systemd of its start and its end, but only if systemd started it.
func TestNotify(t *testing.T) {
	if err := notify("READY=1"); err != nil {
		t.Errorf("without a socket: %v", err)
	}
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	read := func() string {
		t.Helper()
		buf := make([]byte, 100)
		l.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := l.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	p := serve(t, runSidecar, 1, "--listen", "unix://"+filepath.Join(t.TempDir(), "s"), "--model", "m=mock:double")
	if got := read(); got != "READY=1" {
		t.Errorf("at the start: %q", got)
	}
	p.stop()
	if got := read(); got != "STOPPING=1" {
		t.Errorf("at the end: %q", got)
	}
	t.Setenv("NOTIFY_SOCKET", path+"none")
	if err := notify("READY=1"); err == nil {
		t.Error("no error although no socket listens")
	}
}
