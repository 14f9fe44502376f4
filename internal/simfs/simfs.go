// Package simfs is a disk in memory that behaves as badly as a real one may: at a crash, data that
// was not synced is lost, torn or kept, in any mixture. It owns the simulation behind fsx.FS that
// crash tests run on. It must never know what the files mean. The same seed and the same operations
// give the same disk.
package simfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/tensorferry/tensorferry/internal/fsx"
)

// ErrCrashed is the error of every operation after a crash. Kill and PowerLoss return a disk that
// can be used again.
var ErrCrashed = errors.New("simfs: the machine has crashed")

// Disk is a file system in memory. Names may be absolute or relative. Both start at its one root.
type Disk struct {
	mu      sync.Mutex
	root    *node
	journal []change
	ops     int
	nodes   uint64 // made so far
	crashAt int
	crashed bool
	fault   func(Op) error
	locks   map[string]bool
}

// Op is one operation that changes the disk: "mkdir", "create", "append",
// "write", "sync", "rename", "remove", "syncdir" or "lock".
type Op struct {
	// N counts operations from 1.
	N int
	// Kind is the kind of the operation. Name is the name of the file. To is the new name, for a
	// rename.
	Kind, Name, To string
}

// node is a file or a folder.
type node struct {
	dir      bool
	children map[string]*node // a folder's names, as processes see them
	durable  map[string]*node // and as they are on the disk
	id       uint64           // a file's number, in the order of creation
	data     []byte           // a file's bytes, as processes see them
	synced   []byte           // and as they are on the disk
}

// change is a change of names that may not have reached the disk yet.
type change struct {
	dir      *node
	from, to string // the name that vanishes and the name that appears; either may be empty
	child    *node
}

func (c change) apply(names map[string]*node) {
	if c.from != "" && names[c.from] == c.child {
		delete(names, c.from)
	}
	if c.to != "" {
		names[c.to] = c.child
	}
}

func newDir() *node {
	return &node{dir: true, children: map[string]*node{}, durable: map[string]*node{}}
}

// New makes an empty disk.
func New() *Disk { return &Disk{root: newDir(), locks: map[string]bool{}} }

// CrashAt makes the machine crash instead of operation n, counted from 1 since the disk was made.
// Operation n and all later ones, also reads, fail with ErrCrashed and do nothing.
func (d *Disk) CrashAt(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashAt = n
}

// Fail makes f decide on every operation before it is done. If f returns an error, the operation
// returns it and does nothing.
func (d *Disk) Fail(f func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// Ops returns how many changing operations there were.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// Crashed reports whether the crash that CrashAt asked for has happened.
func (d *Disk) Crashed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.crashed
}

// Kill ends every process that uses the disk, as kill -9 does. Locks are free, and no written byte
// is lost, but a later power loss may still lose bytes that were not synced. Kill returns the disk
// for later processes. The old one cannot be used any more.
func (d *Disk) Kill() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashed = true
	next := New()
	next.ops, next.nodes, next.root, next.journal = d.ops, d.nodes, d.root, d.journal
	return next
}

// PowerLoss ends the machine. The seed decides which of the names and bytes that were not synced
// survive. Such bytes may also read as zeros. PowerLoss returns the disk after the reboot.
func (d *Disk) PowerLoss(seed uint64) *Disk {
	names := rand.New(rand.NewPCG(seed, 0))
	return d.reboot(
		// Each file has a random source of its own, so the outcome does not depend on file names.
		func(n *node) { n.data = tear(rand.New(rand.NewPCG(seed, n.id)), n.data, n.synced) },
		func(change) bool { return names.IntN(2) == 0 })
}

// LoseAll is a PowerLoss in which only synced names and bytes survive.
func (d *Disk) LoseAll() *Disk {
	return d.reboot(func(n *node) { n.data = slices.Clone(n.synced) }, func(change) bool { return false })
}

// reboot returns the disk as it is after a crash. Of the changes of names that were not synced,
// those survive for which keep returns true. settle decides on each file's bytes.
func (d *Disk) reboot(settle func(*node), keep func(change) bool) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashed = true
	for _, c := range d.journal {
		if keep(c) {
			c.apply(c.dir.durable)
		}
	}
	d.journal = nil
	next := New()
	next.ops, next.nodes = d.ops, d.nodes
	next.root = settled(d.root, settle)
	return next
}

func settled(n *node, settle func(*node)) *node {
	if !n.dir {
		settle(n)
		return &node{id: n.id, data: slices.Clone(n.data), synced: slices.Clone(n.data)}
	}
	to := newDir()
	for _, name := range slices.Sorted(maps.Keys(n.durable)) {
		child := settled(n.durable[name], settle)
		to.children[name], to.durable[name] = child, child
	}
	return to
}

// tear returns what a file may hold after the power is lost.
func tear(r *rand.Rand, data, synced []byte) []byte {
	if len(data) <= len(synced) {
		return slices.Clone(synced)
	}
	torn := slices.Clone(data[:len(synced)+r.IntN(len(data)-len(synced)+1)])
	if r.IntN(2) == 0 {
		// Later blocks can reach the disk before earlier ones.
		clear(torn[len(synced)+r.IntN(len(torn)-len(synced)+1):])
	}
	return torn
}

// begin counts an operation and returns an error if it must not be done. The lock is held.
func (d *Disk) begin(kind, name, to string) error {
	if d.crashed {
		return ErrCrashed
	}
	d.ops++
	if d.ops == d.crashAt {
		d.crashed = true
		return ErrCrashed
	}
	if d.fault == nil {
		return nil
	}
	return d.fault(Op{N: d.ops, Kind: kind, Name: name, To: to})
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// find returns the node of a path, or nil if the path does not exist.
func (d *Disk) find(name string) *node {
	n := d.root
	for _, part := range split(name) {
		if n == nil || !n.dir {
			return nil
		}
		n = n.children[part]
	}
	return n
}

func split(name string) []string {
	name = strings.Trim(filepath.ToSlash(filepath.Clean(name)), "/")
	if name == "" || name == "." {
		return nil
	}
	return strings.Split(name, "/")
}

// parent returns the folder of a path, and the last element.
func (d *Disk) parent(op, name string) (*node, string, error) {
	dir := d.find(filepath.Dir(name))
	base := filepath.Base(name)
	if dir == nil || !dir.dir {
		return nil, base, pathError(op, name, fs.ErrNotExist)
	}
	return dir, base, nil
}

func (d *Disk) change(c change) {
	c.apply(c.dir.children)
	d.journal = append(d.journal, c)
}

// Files returns every file below dir with its bytes, by path from dir.
func (d *Disk) Files(dir string) map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := map[string][]byte{}
	var walk func(n *node, path string)
	walk = func(n *node, path string) {
		if n == nil {
			return
		}
		if !n.dir {
			files[path] = bytes.Clone(n.data)
			return
		}
		for name, child := range n.children {
			walk(child, filepath.Join(path, name))
		}
	}
	walk(d.find(dir), "")
	return files
}

// lock is the handle of a lock that is held.
type lock struct {
	d    *Disk
	name string
	file *node
	once sync.Once
}

func (l *lock) Close() error {
	l.once.Do(func() {
		l.d.mu.Lock()
		defer l.d.mu.Unlock()
		delete(l.d.locks, l.name)
	})
	return nil
}

// Held implements fsx.Lock.
func (l *lock) Held() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if l.d.find(l.name) != l.file {
		return fmt.Errorf("%s: %w", l.name, fsx.ErrLockLost)
	}
	return nil
}

// LockPID is the process id of the holder of every lock on a Disk.
const LockPID = 4711

// Lock implements fsx.FS. It makes the lock's file and does not sync it.
func (d *Disk) Lock(name string) (fsx.Lock, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin("lock", name, ""); err != nil {
		return nil, err
	}
	dir, base, err := d.parent("lock", name)
	if err != nil {
		return nil, err
	}
	key := strings.Join(split(name), "/")
	if d.locks[key] {
		return nil, &fsx.LockedError{Name: name, PID: LockPID}
	}
	d.locks[key] = true
	if dir.children[base] == nil {
		d.nodes++
		d.change(change{dir: dir, to: base, child: &node{id: d.nodes, data: fmt.Appendln(nil, LockPID)}})
	}
	return &lock{d: d, name: key, file: dir.children[base]}, nil
}
