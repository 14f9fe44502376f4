package endpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Sweep removes the folders that match pattern (in the form of filepath.Match) and hold nothing but
// a socket of the given name that no process listens on any more, because its process was killed. A
// folder that cannot be read or removed, such as another user's, stays.
func Sweep(pattern, socket string) {
	folders, err := filepath.Glob(pattern)
	if err != nil {
		return // a malformed pattern matches nothing
	}
	for _, folder := range folders {
		if info, err := os.Lstat(folder); err != nil || !info.IsDir() {
			continue
		}
		entries, err := os.ReadDir(folder)
		if err != nil || len(entries) != 1 || entries[0].Name() != socket || entries[0].Type() != fs.ModeSocket {
			continue
		}
		unlock, err := lockFolder(folder) // a process may be about to listen
		if err != nil {
			continue
		}
		if err := removeStale(filepath.Join(folder, socket)); err == nil || errors.Is(err, fs.ErrNotExist) {
			os.Remove(folder)
		}
		unlock()
	}
}
