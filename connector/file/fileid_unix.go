//go:build unix

package file

import (
	"os"
	"syscall"
)

// inode returns a number that is the same for all names of a file, and how many names it has.
func inode(info os.FileInfo) (id, names uint64) {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(s.Ino), uint64(s.Nlink)
	}
	return 0, 2
}
