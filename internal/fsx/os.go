package fsx

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// OS is the operating system's file system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) Mkdir(dir string, access Access) error {
	if access == Private {
		return os.Mkdir(dir, 0o700)
	}
	return os.Mkdir(dir, 0o777)
}

func (osFS) Share(name string) error {
	err := os.Chmod(name, 0o666&^umask())
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		// A file system without permissions lets all users read the file already.
		return nil
	}
	return err
}

func (osFS) Create(name string) (File, error) {
	return openFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
}

func (osFS) Append(name string) (File, error) {
	return openFile(name, os.O_WRONLY|os.O_APPEND)
}

// openFile keeps a nil *os.File from becoming a File that is not nil.
func openFile(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osFS) Open(name string) (Reader, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osFS) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }

func (osFS) ReadDir(dir string) ([]Entry, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(list))
	for _, d := range list {
		info, err := d.Info()
		if os.IsNotExist(err) {
			continue // removed since
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry(info))
	}
	return entries, nil
}

func (osFS) Stat(name string) (Entry, error) {
	info, err := os.Stat(name)
	if err != nil {
		return Entry{}, err
	}
	return entry(info), nil
}

func entry(info os.FileInfo) Entry {
	if info.IsDir() {
		return Entry{Name: info.Name(), Dir: true}
	}
	return Entry{Name: info.Name(), Size: info.Size()}
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // Windows has no such operation; NTFS journals names
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func (osFS) Lock(name string) (Lock, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	held, err := lockFile(f)
	if err == nil && held {
		pid := readPID(f)
		f.Close()
		return nil, &LockedError{Name: name, PID: pid}
	}
	if err == nil {
		err = writePID(f)
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "lock", Path: filepath.Clean(name), Err: err}
	}
	return osLock{f, name}, nil
}

// osLock is a file that is locked.
type osLock struct {
	*os.File
	name string
}

func (l osLock) Held() error {
	mine, err := l.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(l.name)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if err != nil || !os.SameFile(mine, there) {
		return fmt.Errorf("%s: %w", l.name, ErrLockLost)
	}
	return nil
}

// readPID returns 0 for a file that holds no id: the holder may not have written it yet.
func readPID(f *os.File) int {
	var buf [20]byte
	n, _ := f.ReadAt(buf[:], 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}
