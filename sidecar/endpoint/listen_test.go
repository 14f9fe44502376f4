//go:build unix

package endpoint

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func unixEndpoint(t *testing.T) (Endpoint, string) {
	t.Helper()
	// Not t.TempDir: it holds the test's name, and the path must be short.
	dir, err := os.MkdirTemp("", "ep")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s.sock")
	e, err := Parse("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	return e, path
}

func TestListenUnix(t *testing.T) {
	e, path := unixEndpoint(t)
	l, err := e.Listen()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket is %v", info.Mode())
	}
	if from, err := FromAddr(l.Addr()); err != nil || from != e {
		t.Errorf("FromAddr = %v, %v", from, err)
	}
	// The socket of a live process is never taken over.
	if _, err := e.Listen(); err == nil || !strings.Contains(err.Error(), "another process listens on it") {
		t.Errorf("a second Listen: %v", err)
	}
	c, err := net.Dial(e.Network, e.Address)
	if err != nil {
		t.Fatalf("the first listener is gone: %v", err)
	}
	c.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after Close the file is still there: %v", err)
	}
}

func TestListenRemovesStaleSocket(t *testing.T) {
	e, path := unixEndpoint(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false) // as kill -9 leaves it
	dead.Close()
	l, err := e.Listen()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestListenLeavesOtherFiles(t *testing.T) {
	e, path := unixEndpoint(t)
	if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Listen(); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("Listen over a plain file: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

func TestCloseLeavesTheSocketOfAnother(t *testing.T) {
	e, path := unixEndpoint(t)
	first, err := e.Listen()
	if err != nil {
		t.Fatal(err)
	}
	os.Rename(path, path+".old") // another process moved the file, and a second server started
	second, err := e.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first.Close()
	c, err := net.Dial(e.Network, e.Address)
	if err != nil {
		t.Fatalf("the first server's Close removed the second's socket: %v", err)
	}
	c.Close()
}

// Many servers start at once over a stale file. Exactly one listens.
func TestListenRace(t *testing.T) {
	e, path := unixEndpoint(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	const n = 16
	listeners := make([]net.Listener, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { listeners[i], _ = e.Listen() })
	}
	wg.Wait()
	won := 0
	for _, l := range listeners {
		if l != nil {
			won++
			defer l.Close()
		}
	}
	if won != 1 {
		t.Errorf("%d servers listen on one socket", won)
	}
	if c, err := net.Dial(e.Network, e.Address); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

func TestListenTCP(t *testing.T) {
	e, err := Parse("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := e.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got, err := FromAddr(l.Addr())
	if err != nil || got.Address == "127.0.0.1:0" {
		t.Errorf("FromAddr = %v, %v", got, err)
	}
	if _, err := got.Listen(); err == nil || !strings.Contains(err.Error(), got.String()) {
		t.Errorf("a taken port: %v", err)
	}
}
