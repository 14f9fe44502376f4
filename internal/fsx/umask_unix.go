//go:build unix

package fsx

import (
	"io/fs"
	"sync"
	"syscall"
)

// umask is what the permissions of new files lack. It can be read only by setting it: for that
// moment it is the strictest one, and so at the first use alone.
var umask = sync.OnceValue(func() fs.FileMode {
	was := syscall.Umask(0o077)
	syscall.Umask(was)
	return fs.FileMode(was) & fs.ModePerm
})
