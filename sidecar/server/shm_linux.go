package server

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// shmFolder is where POSIX shared memory objects lie.
const shmFolder = "/dev/shm"

// openObject opens an object by its checked name, and returns its size. It does not follow a link,
// and does not wait for the other end of a pipe.
func openObject(name string) (*os.File, uint64, error) {
	f, err := os.OpenFile(filepath.Join(shmFolder, name), os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("it is not a shared memory object (file type %s)", info.Mode().Type())
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, uint64(info.Size()), nil
}
