//go:build unix

package file

import (
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tensorferry/tensorferry/async"
)

// TestPendingPartsArePrivate before and after they are prepared, whatever the umask.
func TestPendingPartsArePrivate(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077} {
		dir := t.TempDir()
		defer syscall.Umask(syscall.Umask(mask))
		w, err := NewSink(SinkConfig[json.RawMessage]{Encode: RawLine, Dir: dir}).Open(ctx, async.Subtask{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Write(raw(0, "1")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			names, err := filepath.Glob(filepath.Join(dir, pendingPrefix+"*"))
			if err != nil || len(names) != 1 {
				t.Fatal(names, err)
			}
			if info, err := os.Stat(names[0]); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("umask %o: %v, %v", mask, info.Mode(), err)
			}
			if _, err := w.Prepare(ctx, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}
