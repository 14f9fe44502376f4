package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tensorferry/tensorferry/internal/fsx"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// DefaultRetain is the default of Options.Retain.
const DefaultRetain = 3

// Options are the options of a Store. The zero value has the defaults that are given below.
type Options struct {
	// Retain is how many checkpoints of the run are kept, the newest ones. Default: 3.
	Retain int
	// ReadOnly opens the folder without its lock, and nothing is written. The folder must exist.
	ReadOnly bool
	// Logger logs checkpoints that are damaged, and old files that cannot be removed. Default:
	// slog.Default().
	Logger *slog.Logger
	// FS is the file system. Default: that of the operating system. Others are for tests of
	// crashes.
	FS fsx.FS
}

// Store is a folder of checkpoints. It is safe for concurrent use. One process at a time can hold
// the folder.
type Store struct {
	dir  string
	opts Options
	fs   fsx.FS
	log  *slog.Logger
	lock fsx.Lock // nil when read-only

	mu  sync.Mutex
	run string // the run that Write belongs to, once one was begun
	// mark is what the marker of that run says.
	mark marker
}

// Info describes one checkpoint in a folder.
type Info struct {
	// ID is the number of the checkpoint within its run.
	ID int64
	// Run is the id of the run.
	Run string
	// Path is the checkpoint's file, and Size its length in bytes.
	Path string
	Size int64
}

// Open opens the checkpoint folder dir, makes it if it does not exist, and takes its lock. If
// another process has the lock, the error is a *LockedError. Close releases the lock.
func Open(dir string, opts Options) (*Store, error) {
	s := &Store{dir: dir, opts: opts, fs: opts.FS, log: guard.Logger(opts.Logger)}
	if s.fs == nil {
		s.fs = fsx.OS
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	switch {
	case opts.Retain < 0:
		return nil, fmt.Errorf("checkpoint: retain is %d; want 1 or more, or 0 for %d", opts.Retain, DefaultRetain)
	case opts.Retain == 0:
		s.opts.Retain = DefaultRetain
	}
	if opts.ReadOnly {
		if _, err := s.fs.ReadDir(dir); err != nil {
			return nil, fmt.Errorf("checkpoint: reading the folder %s: %w", dir, err)
		}
		return s, nil
	}
	if err := fsx.MkdirAll(s.fs, dir, fsx.Private); err != nil {
		return nil, fmt.Errorf("checkpoint: making the folder %s: %w", dir, err)
	}
	lock, err := s.fs.Lock(filepath.Join(dir, "lock"))
	if held, ok := errors.AsType[*fsx.LockedError](err); ok {
		return nil, &LockedError{Dir: dir, PID: held.PID}
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoint: locking the folder %s: %w", dir, err)
	}
	s.lock = lock
	return s, nil
}

// Close releases the lock. It is idempotent. After it nothing can be written.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lock := s.lock
	s.lock, s.run = nil, ""
	if lock == nil {
		return nil
	}
	return lock.Close()
}

// Dir returns the path of the folder.
func (s *Store) Dir() string { return s.dir }

const (
	runPrefix  = "run-"
	chkPrefix  = "chk-"
	markerName = "run"
)

func chkName(id int64) string { return fmt.Sprintf("%s%08d", chkPrefix, id) }

// chkID returns the id in the name of a checkpoint's file.
func chkID(name string) (int64, bool) {
	digits, ok := strings.CutPrefix(name, chkPrefix)
	if !ok {
		return 0, false
	}
	id, err := strconv.ParseInt(digits, 10, 64)
	return id, err == nil && name == chkName(id)
}

// Write stores a snapshot of the run that Start, Resume, Fresh or From began. If it returns nil,
// the snapshot is durable and the newest of the run. If it returns an error, the snapshot may be
// there whole or not at all, but never in part.
//
// The snapshot's ID must be above those of all checkpoints of the run. The run's marker records the
// ID, so that a checkpoint that goes missing is noticed. After the write, the checkpoints beyond
// Options.Retain are removed, and so are earlier runs, unless the ID is 0. If the folder or its
// lock was removed meanwhile, the error wraps ErrLockLost, and nothing is written.
func (s *Store) Write(ctx context.Context, snap *Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.lock == nil || s.run == "" {
		return errors.New("checkpoint: the store is read-only or closed, or has not begun a run")
	}
	if err := s.held(); err != nil {
		return err
	}
	if snap.Run != s.run {
		return fmt.Errorf("checkpoint: snapshot %d is of run %s, but the present run is %s", snap.ID, snap.Run, s.run)
	}
	list, err := s.checkpoints(s.run)
	if err != nil {
		return err
	}
	if n := len(list); n > 0 && snap.ID <= list[n-1].ID {
		return fmt.Errorf("checkpoint: snapshot %d comes after snapshot %d of the same run; ids must grow", snap.ID, list[n-1].ID)
	}
	if snap.ID < 0 {
		return fmt.Errorf("checkpoint: snapshot has the id %d; want 0 or more", snap.ID)
	}
	path := filepath.Join(s.dir, s.run, chkName(snap.ID))
	if err := fsx.WriteFile(s.fs, path, Encode(snap)); err != nil {
		return fmt.Errorf("checkpoint: writing %s: %w", path, err)
	}
	// A process that is killed here has published nothing of the snapshot yet.
	mark := s.mark
	mark.Newest = new(snap.ID)
	if err := s.writeMarker(s.run, mark); err != nil {
		return err
	}
	s.mark = mark
	s.retire(append(list, Info{ID: snap.ID, Run: s.run, Path: path}))
	return nil
}

// held returns an error if another process may hold the folder by now.
func (s *Store) held() error {
	if err := s.lock.Held(); err != nil {
		return fmt.Errorf("checkpoint: the folder %s is no longer locked by this process: %w; another process may use it now. "+
			"Make sure that no other process uses it, then resume the run or start afresh", s.dir, err)
	}
	return nil
}

// retire removes what the new checkpoint, the last of list, made superfluous. If that fails, the
// checkpoint is valid all the same.
func (s *Store) retire(list []Info) {
	dead := s.mark.Branch.abandoned(list)
	list = slices.DeleteFunc(list, func(i Info) bool { return slices.Contains(dead, i) })
	if n := len(list) - s.opts.Retain; n > 0 {
		dead = append(dead, list[:n]...)
	}
	for _, i := range dead {
		s.warn("can't remove an old checkpoint", s.fs.Remove(i.Path))
	}
	if list[len(list)-1].ID == 0 {
		return // it replaces nothing yet, and may be abandoned
	}
	runs, err := s.runs()
	s.warn("can't list earlier runs", err)
	for _, run := range runs {
		if run == s.run {
			break
		}
		s.warn("can't remove an earlier run", s.discard(run))
	}
}

func (s *Store) warn(what string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("checkpoint: "+what, "folder", s.dir, "error", err)
	}
}

// discard removes a run with all its checkpoints. The marker is removed last, so that after a crash
// on the way the run is still known as one.
func (s *Store) discard(run string) error {
	dir := filepath.Join(s.dir, run)
	entries, err := s.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name != markerName {
			if err := s.fs.Remove(filepath.Join(dir, e.Name)); err != nil {
				return err
			}
		}
	}
	if err := s.fs.Remove(filepath.Join(dir, markerName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.fs.Remove(dir)
}

// runs returns the ids of the runs in the folder, oldest first. A folder without a marker and
// without a checkpoint is not a run: the process that made it crashed before the run began.
func (s *Store) runs() ([]string, error) {
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: reading the folder %s: %w", s.dir, err)
	}
	var runs []string
	for _, e := range entries {
		if _, ok := runNumber(e.Name); !ok || !e.Dir {
			continue
		}
		files, err := s.fs.ReadDir(filepath.Join(s.dir, e.Name))
		if err != nil {
			return nil, fmt.Errorf("checkpoint: reading the run %s: %w", e.Name, err)
		}
		if slices.ContainsFunc(files, func(f fsx.Entry) bool {
			_, chk := chkID(f.Name)
			return chk || f.Name == markerName
		}) {
			runs = append(runs, e.Name)
		}
	}
	slices.SortStableFunc(runs, func(a, b string) int {
		m, _ := runNumber(a)
		n, _ := runNumber(b)
		return cmp.Compare(m, n)
	})
	return runs, nil
}

// checkpoints lists the checkpoints of one run, oldest first.
func (s *Store) checkpoints(run string) ([]Info, error) {
	dir := filepath.Join(s.dir, run)
	entries, err := s.fs.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: reading the run's folder: %w", err)
	}
	var list []Info
	for _, e := range entries {
		if id, ok := chkID(e.Name); ok && !e.Dir {
			list = append(list, Info{ID: id, Run: run, Path: filepath.Join(dir, e.Name), Size: e.Size})
		}
	}
	slices.SortFunc(list, func(a, b Info) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

// List returns all checkpoints in the folder: the runs from the oldest on, and within each the
// checkpoints from the oldest on. It opens no checkpoint.
func (s *Store) List() ([]Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	runs, err := s.runs()
	if err != nil {
		return nil, err
	}
	var all []Info
	for _, run := range runs {
		list, err := s.checkpoints(run)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// Newest returns the newest whole checkpoint of the run under way or, if none was begun, of the
// newest run. It skips damaged checkpoints, and logs them. It returns nil without an error if the
// run has no checkpoint yet.
//
// The error wraps ErrCorrupt if the run has checkpoints and all are damaged. It wraps ErrVersion if
// a newer program wrote the newest checkpoint. Going on from an older one would forget what that
// program did.
func (s *Store) Newest(ctx context.Context) (*Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	run := s.run
	if run == "" {
		runs, err := s.runs()
		if err != nil || len(runs) == 0 {
			return nil, err
		}
		run = runs[len(runs)-1]
	}
	if s.lock != nil {
		// A Write that failed at its last step left a checkpoint whose name is not durable yet. A
		// checkpoint that Newest returns must not vanish in a crash.
		if err := s.fs.SyncDir(filepath.Join(s.dir, run)); err != nil {
			return nil, fmt.Errorf("checkpoint: syncing the run's folder: %w", err)
		}
	}
	snap, damaged, err := s.newest(run)
	for _, d := range damaged {
		s.log.Warn("checkpoint: skipped a damaged checkpoint", "error", d)
	}
	return snap, err
}

// newest returns a run's newest whole checkpoint, or nil if the run has none, and the errors of the
// checkpoints that it skipped.
func (s *Store) newest(run string) (snap *Snapshot, damaged []error, err error) {
	list, err := s.checkpoints(run)
	if err != nil {
		return nil, nil, err
	}
	for _, info := range slices.Backward(list) {
		snap, err := s.Load(info.Path)
		if err == nil {
			return snap, damaged, nil
		}
		if !errors.Is(err, ErrCorrupt) {
			return nil, damaged, err
		}
		damaged = append(damaged, err)
	}
	if damaged != nil {
		return nil, nil, fmt.Errorf("checkpoint: no checkpoint of %s can be read: %w",
			filepath.Join(s.dir, run), errors.Join(damaged...))
	}
	return nil, nil, nil
}

// Load reads the checkpoint in the file path. The error wraps ErrCorrupt or ErrVersion if the file
// cannot be decoded, and the file system's error if it cannot be read.
func (s *Store) Load(path string) (*Snapshot, error) {
	b, err := s.fs.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	snap, err := Decode(b)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %s: %w", path, err)
	}
	return snap, nil
}
