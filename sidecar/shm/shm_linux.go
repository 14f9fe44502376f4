package shm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// folder is where POSIX shared memory objects lie. It is a variable so that tests can change it.
var folder = "/dev/shm"

// Create makes an object of size bytes and reserves all of its memory. If there is not enough room,
// Create returns an error; a later write to the memory does not fault. The size must be above 0.
func Create(size int) (*Segment, error) {
	if size <= 0 {
		return nil, fmt.Errorf("shm: an object of %d bytes; the size must be above 0", size)
	}
	// Before the new file is locked, a sweep in another process may remove it as a dead
	// process's file.
	for range 8 {
		s, err := create(size)
		if s != nil || err != nil {
			return s, err
		}
	}
	return nil, errors.New("shm: other processes removed the object each time before it was locked; try again")
}

// create returns nil, nil if a sweep removed the file before it was locked.
func create(size int) (*Segment, error) {
	key := prefix + rand.Text()
	path := filepath.Join(folder, key)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("shm: %w", err)
	}
	fail := func(doing string, err error) (*Segment, error) {
		os.Remove(path)
		f.Close()
		return nil, fmt.Errorf("shm: %s: %w", doing, err)
	}
	fd := int(f.Fd())
	if syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) != nil || links(f) == 0 {
		os.Remove(path)
		f.Close()
		return nil, nil
	}
	if err := fallocate(fd, int64(size)); err != nil {
		return fail(fmt.Sprintf("no room for %d bytes in %s", size, folder), err)
	}
	data, err := syscall.Mmap(fd, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return fail("mapping the object", err)
	}
	return &Segment{
		key: key, data: data,
		// The lock shows that the owner lives, for as long as the object has a name.
		unlink: func() error {
			err := os.Remove(path)
			if e := f.Close(); err == nil {
				err = e
			}
			return err
		},
		unmap: func() error { return syscall.Munmap(data) },
	}, nil
}

func fallocate(fd int, size int64) error {
	for {
		if err := syscall.Fallocate(fd, 0, 0, size); err != syscall.EINTR {
			return err
		}
	}
}

// links returns the number of names that a file has.
func links(f *os.File) uint64 {
	var st syscall.Stat_t
	if syscall.Fstat(int(f.Fd()), &st) != nil {
		return 0
	}
	return uint64(st.Nlink)
}

// Sweep removes this package's objects of the same user whose owner has died. It skips objects that
// it cannot open.
func Sweep() error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("shm: %w", err)
	}
	var errs []error
	for _, e := range entries {
		id, ok := strings.CutPrefix(e.Name(), prefix)
		if ok && len(id) == len(rand.Text()) && e.Type().IsRegular() {
			errs = append(errs, sweep(filepath.Join(folder, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func sweep(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil // removed meanwhile, or another user's
	}
	defer f.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil || int(st.Uid) != os.Geteuid() {
		return err
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil // its owner is alive
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("shm: %w", err)
	}
	return nil
}

// NewClaim makes a claim. The claim is an abstract Unix socket, which the system frees when the
// process ends, for whatever reason. Only processes in the same network namespace can check a
// claim; the namespace is part of its name.
func NewClaim() (*Claim, error) {
	id := rand.Text()
	fd, err := hold(id)
	if err != nil {
		return nil, fmt.Errorf("shm: making a claim: %w", err)
	}
	freed := false
	return &Claim{name: prefix + namespace() + "-" + id, free: func() {
		if !freed {
			freed = true
			syscall.Close(fd)
		}
	}}, nil
}

// hold binds the abstract address of a claim.
func hold(id string) (int, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: "@" + prefix + id}); err != nil {
		syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}

// namespace returns the name of the network namespace, which is where abstract addresses are known.
func namespace() string {
	var st syscall.Stat_t
	if syscall.Stat("/proc/self/ns/net", &st) != nil {
		return "unknown"
	}
	return fmt.Sprintf("%x.%x", st.Dev, st.Ino)
}

// Dead reports whether name belongs to a claim whose maker is certainly gone. It returns false for
// names that do not belong to a claim, and for claims that were made in a place that this process
// cannot check.
func Dead(name string) bool {
	place, id, ok := split(name)
	if !ok || place == "unknown" || place != namespace() {
		return false
	}
	fd, err := hold(id)
	if err != nil {
		return false
	}
	syscall.Close(fd)
	return true
}
