package simfs

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/tensorferry/tensorferry/internal/fsx"
)

var _ fsx.FS = (*Disk)(nil)

// Mkdir implements fsx.FS.
func (d *Disk) Mkdir(name string, _ fsx.Access) error {
	return d.add("mkdir", name, newDir())
}

// Create implements fsx.FS.
func (d *Disk) Create(name string) (fsx.File, error) {
	n := &node{}
	if err := d.add("create", name, n); err != nil {
		return nil, err
	}
	return &file{d: d, n: n, name: name}, nil
}

func (d *Disk) add(op, name string, n *node) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(op, name, ""); err != nil {
		return err
	}
	dir, base, err := d.parent(op, name)
	if err != nil {
		return err
	}
	if dir.children[base] != nil {
		return pathError(op, name, fs.ErrExist)
	}
	d.nodes++
	n.id = d.nodes
	d.change(change{dir: dir, to: base, child: n})
	return nil
}

// Share implements fsx.FS. A Disk has no permissions, so nothing changes.
func (d *Disk) Share(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin("share", name, ""); err != nil {
		return err
	}
	if d.find(name) == nil {
		return pathError("share", name, fs.ErrNotExist)
	}
	return nil
}

// Append implements fsx.FS.
func (d *Disk) Append(name string) (fsx.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin("append", name, ""); err != nil {
		return nil, err
	}
	n := d.find(name)
	if n == nil || n.dir {
		return nil, pathError("append", name, fs.ErrNotExist)
	}
	return &file{d: d, n: n, name: name}, nil
}

// ReadFile implements fsx.FS.
func (d *Disk) ReadFile(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return nil, ErrCrashed
	}
	n := d.find(name)
	if n == nil {
		return nil, pathError("read", name, fs.ErrNotExist)
	}
	if n.dir {
		return nil, pathError("read", name, errors.New("is a folder"))
	}
	return slices.Clone(n.data), nil
}

// Open implements fsx.FS.
func (d *Disk) Open(name string) (fsx.Reader, error) {
	b, err := d.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return opened{bytes.NewReader(b)}, nil
}

// opened is a file as it was when it was opened.
type opened struct{ *bytes.Reader }

func (opened) Close() error { return nil }

// ReadDir implements fsx.FS.
func (d *Disk) ReadDir(name string) ([]fsx.Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return nil, ErrCrashed
	}
	n := d.find(name)
	if n == nil || !n.dir {
		return nil, pathError("readdir", name, fs.ErrNotExist)
	}
	var entries []fsx.Entry
	for _, base := range slices.Sorted(maps.Keys(n.children)) {
		child := n.children[base]
		entries = append(entries, fsx.Entry{Name: base, Size: int64(len(child.data)), Dir: child.dir})
	}
	return entries, nil
}

// Stat implements fsx.FS.
func (d *Disk) Stat(name string) (fsx.Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return fsx.Entry{}, ErrCrashed
	}
	n := d.find(name)
	if n == nil {
		return fsx.Entry{}, pathError("stat", name, fs.ErrNotExist)
	}
	return fsx.Entry{Name: filepath.Base(name), Size: int64(len(n.data)), Dir: n.dir}, nil
}

// Rename implements fsx.FS.
func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin("rename", from, to); err != nil {
		return err
	}
	dir, old, err := d.parent("rename", from)
	if err != nil {
		return err
	}
	toDir, base, err := d.parent("rename", to)
	if err != nil {
		return err
	}
	if dir != toDir {
		return pathError("rename", to, errors.New("the new name is in another folder"))
	}
	n := dir.children[old]
	if n == nil {
		return pathError("rename", from, fs.ErrNotExist)
	}
	if old == base {
		return nil
	}
	d.change(change{dir: dir, from: old, to: base, child: n})
	return nil
}

// Remove implements fsx.FS.
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin("remove", name, ""); err != nil {
		return err
	}
	dir, base, err := d.parent("remove", name)
	if err != nil {
		return err
	}
	n := dir.children[base]
	switch {
	case n == nil:
		return pathError("remove", name, fs.ErrNotExist)
	case len(n.children) > 0:
		return pathError("remove", name, errors.New("the folder is not empty"))
	}
	d.change(change{dir: dir, from: base, child: n})
	return nil
}

// SyncDir implements fsx.FS.
func (d *Disk) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin("syncdir", name, ""); err != nil {
		return err
	}
	n := d.find(name)
	if n == nil || !n.dir {
		return pathError("sync", name, fs.ErrNotExist)
	}
	rest := d.journal[:0]
	for _, c := range d.journal {
		if c.dir == n {
			c.apply(n.durable)
		} else {
			rest = append(rest, c)
		}
	}
	d.journal = rest
	return nil
}

// file is an open file.
type file struct {
	d      *Disk
	n      *node
	name   string
	closed bool
}

func (f *file) Write(p []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return 0, pathError("write", f.name, fs.ErrClosed)
	}
	if err := f.d.begin("write", f.name, ""); err != nil {
		return 0, err
	}
	f.n.data = append(f.n.data, p...)
	return len(p), nil
}

func (f *file) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return pathError("sync", f.name, fs.ErrClosed)
	}
	if err := f.d.begin("sync", f.name, ""); err != nil {
		return err
	}
	f.n.synced = slices.Clone(f.n.data)
	return nil
}

func (f *file) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	if f.d.crashed {
		return ErrCrashed
	}
	return nil
}
