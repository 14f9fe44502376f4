//go:build unix

package fsx

import (
	"io/fs"
	"sync"
	"syscall"
)

// umask returns the permissions that new files do not get. It can be read only by setting it, so it
// is read once, at the first use, and is the strictest one for that moment.
var umask = sync.OnceValue(func() fs.FileMode {
	was := syscall.Umask(0o077)
	syscall.Umask(was)
	return fs.FileMode(was) & fs.ModePerm
})
