// Package fsx is the small part of a file system that durable files need: create, write, sync,
// rename, sync the folder, lock. It owns the interface, the operating system's implementation, and
// the few sequences of operations that make a change survive a crash. Package simfs implements the
// interface with a disk that loses data that was not synced.
//
// It must never know what the files mean.
package fsx

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
)

// FS is a file system. Names are in the operating system's own form. Errors work with
// errors.Is(err, fs.ErrNotExist) and fs.ErrExist. Its methods are safe for concurrent use.
//
// Nothing is durable by itself. A file's bytes are durable after File.Sync. Its name (new, renamed
// or removed) is durable after SyncDir of the folder.
type FS interface {
	// Mkdir makes one folder.
	Mkdir(dir string, access Access) error
	// Create makes a new file for writing, which only this user can read. It fails if the name is
	// taken.
	Create(name string) (File, error)
	// Share lets others read a file that Create made, as far as the umask lets them read new ones.
	Share(name string) error
	// Append opens an existing file for writing at its end.
	Append(name string) (File, error)
	ReadFile(name string) ([]byte, error)
	// Open opens an existing file for reading.
	Open(name string) (Reader, error)
	// ReadDir lists a folder, sorted by name.
	ReadDir(dir string) ([]Entry, error)
	Stat(name string) (Entry, error)
	// Rename moves a file within its folder and replaces what has the new name.
	Rename(from, to string) error
	// Remove deletes a file, or a folder that is empty.
	Remove(name string) error
	// SyncDir makes the names in a folder durable.
	SyncDir(dir string) error
	// Lock locks the file name, which it makes if it is missing, and writes the process's id into
	// it. It does not wait: if another process holds the lock, it returns a *LockedError. The lock
	// ends with Close, or when the process ends in any way.
	Lock(name string) (Lock, error)
}

// Lock is a lock that is held.
type Lock interface {
	io.Closer
	// Held returns an error that wraps ErrLockLost if the lock's file is no longer the one that was
	// locked. The next process would then lock another file, and two processes would hold the lock.
	Held() error
}

// ErrLockLost says that a lock file was removed, or replaced, while it was held.
var ErrLockLost = errors.New("the lock was removed or replaced while it was held")

// Access says which users may look into a folder.
type Access bool

// Private keeps all other users out, whatever the umask; it is for folders that hold records.
// Shared lets other users in as far as the umask does.
const (
	Private Access = true
	Shared  Access = false
)

// File is an open file that is written.
type File interface {
	io.Writer
	// Sync makes the file's bytes durable.
	Sync() error
	Close() error
}

// Reader is an open file that is read.
type Reader interface {
	io.ReaderAt
	io.Closer
}

// Entry is one name in a folder.
type Entry struct {
	// Name is the last element of the path.
	Name string
	// Size in bytes; 0 for a folder.
	Size int64
	Dir  bool
}

// LockedError says that another process holds a lock.
type LockedError struct {
	// Name is the lock file.
	Name string
	// PID is the holder's process id; 0 if it is not known.
	PID int
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is locked by another process", e.Name)
	}
	return fmt.Sprintf("%s is locked by process %d", e.Name, e.PID)
}

// MkdirAll makes a folder and the missing folders above it, and makes their names durable. The
// folders above are Shared. An existing folder stays as it is.
func MkdirAll(fsys FS, dir string, access Access) error {
	e, err := fsys.Stat(dir)
	if err == nil {
		if !e.Dir {
			return fmt.Errorf("%s is a file; a folder is needed there", dir)
		}
		// A process may have made the folder and been killed before it made the name durable. If
		// we may not read the parent, the folder is not one of ours.
		if err := fsys.SyncDir(filepath.Dir(dir)); !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if parent == dir {
		return err
	}
	if err := MkdirAll(fsys, parent, Shared); err != nil {
		return err
	}
	if err := fsys.Mkdir(dir, access); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fsys.SyncDir(parent)
}

// TempPrefix begins the names of files that WriteFile has not finished. The owner of a folder may
// remove them when no process writes in it.
const TempPrefix = ".tmp-"

// WriteFile writes a file so that, whatever happens, name holds either its earlier content or all
// of the new bytes. If it returns nil, the new bytes are durable. After an error the name may hold
// either. Only this user can read the file.
func WriteFile(fsys FS, name string, data []byte) error {
	return writeFile(fsys, name, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteFrom is WriteFile with the bytes of a reader up to its end. It holds few of them in memory.
func WriteFrom(fsys FS, name string, r io.Reader) error {
	return writeFile(fsys, name, func(w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	})
}

func writeFile(fsys FS, name string, write func(io.Writer) error) error {
	dir, base := filepath.Split(name)
	dir = filepath.Clean(dir)
	temp := filepath.Join(dir, TempPrefix+base)
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(temp)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(temp, name)
	}
	if err != nil {
		// The temporary file is of no use; if it can't be removed either, its name says so.
		_ = fsys.Remove(temp)
		return err
	}
	return fsys.SyncDir(dir)
}
