//go:build unix

package embedded

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestPrivateFolder: making a folder removes those of killed sidecars, and no others.
func TestPrivateFolder(t *testing.T) {
	parent, err := os.MkdirTemp("", "e") // t.TempDir is too long a path for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(parent)
	t.Setenv("TMPDIR", parent)
	mine := func() string {
		dir, err := privateFolder()
		if err != nil || filepath.Dir(dir) != parent {
			t.Fatal(dir, err)
		}
		return dir
	}
	listen := func(dir string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, socketName), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	killed, lives := mine(), mine()
	dead, other := listen(killed), listen(lives)
	defer other.Close()
	dead.SetUnlinkOnClose(false)
	dead.Close()
	again := mine()
	for dir, there := range map[string]bool{killed: false, lives: true, again: true} {
		if _, err := os.Stat(dir); (err == nil) != there {
			t.Errorf("%s: %v; is it to be there: %v", dir, err, there)
		}
	}
}
