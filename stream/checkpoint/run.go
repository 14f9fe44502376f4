package checkpoint

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tensorferry/tensorferry/internal/enum"
	"github.com/tensorferry/tensorferry/internal/fsx"
)

// Phase says where the newest run of a folder stands.
type Phase uint8

const (
	// Empty: no run was ever begun here.
	Empty Phase = iota
	// Unfinished: a run began and has not reached the end of its input. It may have no checkpoint
	// yet.
	Unfinished
	// Finished: the newest checkpoint is the last one of a run that read its whole input.
	Finished
)

var phases = []string{"empty", "unfinished", "finished"}

func (p Phase) String() string { return enum.Name("phase", p, phases) }

// State says what a folder holds, as far as the next start needs to know.
type State struct {
	Phase Phase
	// Run is the id of the newest run, and Job the name of its job. They are empty if there is no
	// run.
	Run, Job string
	// Started is when that run began. Starts counts how often a process started it.
	Started time.Time
	Starts  int
	// Newest is the run's newest whole checkpoint, or nil if it has none. A checkpoint with the id
	// 0 says where the run began.
	Newest *Snapshot
	// Damaged has an error for each newer checkpoint that was skipped because it is damaged or
	// gone.
	Damaged []error

	last *int64 // the newest checkpoint that was completed, if the marker says it
}

// Run is a run that was begun or that goes on.
type Run struct {
	// ID names the run. It stays the same after each resumption.
	ID string
	// Attempt counts the starts of the run before this one. It is above the attempt of every
	// checkpoint that could be read.
	Attempt int
	// Restore is the checkpoint to go on from. If it is nil, the run starts at the beginning.
	Restore *Snapshot
	// Previous is set if Restore is nil and this run replaces an earlier one. It is the earlier
	// run's newest checkpoint, which says what that run published.
	Previous *Snapshot
	// Newest is the run's newest checkpoint. It differs from Restore only after From. It says what
	// was published since Restore.
	Newest *Snapshot
	// LastID is the highest id of the run's checkpoints so far, including those that are damaged or
	// gone. The next id must be above it. If it is above the id of Restore, more may have been
	// published than Restore says (stream.Salvage).
	LastID int64
	// Damaged has an error for each checkpoint that was skipped because it is damaged or gone.
	Damaged []error
}

// runNumber returns the number in a run's id.
func runNumber(id string) (int64, bool) {
	rest, ok := strings.CutPrefix(id, runPrefix)
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(rest, "-")
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, ok && err == nil && n > 0
}

// State reads where the folder's newest run stands. It also works on a read-only Store.
func (s *Store) State() (State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state()
}

func (s *Store) state() (State, error) {
	runs, err := s.runs()
	if err != nil || len(runs) == 0 {
		return State{}, err
	}
	st := State{Phase: Unfinished, Run: runs[len(runs)-1]}
	m, err := s.marker(st.Run)
	if errors.Is(err, ErrCorrupt) {
		return s.unmarked(st, err)
	}
	if err != nil {
		return st, err
	}
	st.Job, st.Started, st.Starts, st.last = m.Job, m.Started, m.Starts, m.Newest
	if s.lock != nil {
		if err := s.prune(st.Run, m.Branch); err != nil {
			return st, err
		}
	}
	st.Newest, st.Damaged, err = s.newest(st.Run)
	if err != nil {
		return st, err
	}
	if err := s.missing(&st); err != nil {
		return st, err
	}
	if st.Newest != nil && st.Newest.Finished {
		st.Phase = Finished
	}
	return st, nil
}

// Start begins a new run of job if the folder holds no run or a finished one. If it holds an
// unfinished run, the error is an *UnfinishedError. If the folder belongs to another job, it is an
// *OtherJobError.
func (s *Store) Start(job string) (*Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := s.owned(job)
	if err != nil {
		return nil, err
	}
	if st.Phase == Unfinished {
		e := &UnfinishedError{Dir: s.dir, Run: st.Run}
		if st.Newest != nil {
			e.Checkpoint = st.Newest.ID
		}
		return nil, e
	}
	return s.begin(job)
}

// Resume goes on with the unfinished run of job, from its newest checkpoint or, if it has none,
// from its beginning. If the folder holds no run, Resume begins one. For a finished run it returns
// the last checkpoint (Restore.Finished), so that the results can be published again if a crash
// prevented that. If the folder belongs to another job, the error is an *OtherJobError.
func (s *Store) Resume(job string) (*Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := s.owned(job)
	if err != nil {
		return nil, err
	}
	if st.Phase == Empty {
		return s.begin(job)
	}
	return s.resume(st, st.Newest)
}

// Fresh begins a new run of job, whatever the folder holds of that job. The new run replaces what
// the run before it published, also if that run is unfinished or its checkpoints are damaged. If
// the folder belongs to another job, the error is an *OtherJobError.
func (s *Store) Fresh(job string) (*Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Damaged checkpoints can be discarded.
	if _, err := s.owned(job); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
		return nil, err
	}
	return s.begin(job)
}

// From goes on with the newest run from one of its checkpoints. checkpoint names it by its id
// ("7"), by the name of its file ("chk-00000007") or by its path. If it is not there, the error
// wraps ErrNoCheckpoint. The newer checkpoints stay until the run writes another one, so a crash
// before that loses nothing.
func (s *Store) From(job, checkpoint string) (*Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := s.owned(job)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return nil, err
	}
	if st.Job == "" {
		st.Job = job // nothing says that the run belongs to another job
	}
	if st.Phase == Empty {
		return nil, fmt.Errorf("%w: the folder %s holds no run", ErrNoCheckpoint, s.dir)
	}
	list, err := s.checkpoints(st.Run)
	if err != nil {
		return nil, err
	}
	var have []string
	start := ""
	for _, info := range list {
		if info.is(checkpoint) {
			snap, err := s.Load(info.Path)
			if err != nil {
				return nil, err
			}
			return s.resume(st, snap)
		}
		if info.ID == 0 {
			start = " (and 0, which is its beginning)"
			continue
		}
		have = append(have, strconv.FormatInt(info.ID, 10))
	}
	if have == nil && st.last != nil && *st.last > 0 {
		have = []string{"no checkpoint any more"}
	} else if have == nil {
		have = []string{"no later checkpoint yet"}
	}
	return nil, fmt.Errorf("%w: %s; the newest run has %s%s", ErrNoCheckpoint, checkpoint, strings.Join(have, ", "), start)
}

// is reports whether a user's reference means this checkpoint.
func (i Info) is(ref string) bool {
	dir, base := filepath.Split(filepath.Clean(ref))
	if dir != "" && filepath.Base(dir) != i.Run {
		return false
	}
	id, err := strconv.ParseInt(strings.TrimPrefix(base, chkPrefix), 10, 64)
	return err == nil && id == i.ID
}

// owned returns the state of the folder, or an error if job may not use it.
func (s *Store) owned(job string) (State, error) {
	if s.lock == nil {
		return State{}, errors.New("checkpoint: the store is read-only or closed")
	}
	st, err := s.state()
	if st.Job != "" && st.Job != job {
		return st, &OtherJobError{Dir: s.dir, Owner: st.Job, Job: job}
	}
	return st, err
}

// prune removes the checkpoints that a branch has left behind and that a crash kept from being
// removed.
func (s *Store) prune(run string, b *branch) error {
	list, err := s.checkpoints(run)
	if err != nil {
		return err
	}
	for _, i := range b.abandoned(list) {
		if err := s.fs.Remove(i.Path); err != nil {
			return fmt.Errorf("checkpoint: removing a checkpoint that the run no longer uses: %w", err)
		}
	}
	return nil
}

// resume goes on with the run of st.
func (s *Store) resume(st State, from *Snapshot) (*Run, error) {
	r := &Run{ID: st.Run, Restore: from, Newest: st.Newest, Damaged: st.Damaged, Attempt: st.Starts}
	for _, snap := range []*Snapshot{from, st.Newest} {
		if snap != nil {
			r.Attempt = max(r.Attempt, snap.Attempt+1)
		}
	}
	list, err := s.checkpoints(st.Run)
	if err != nil {
		return nil, err
	}
	newest := st.last
	if n := len(list); n > 0 && (newest == nil || *newest < list[n-1].ID) {
		newest = &list[n-1].ID
	}
	if newest != nil {
		r.LastID = *newest
	}
	if from == nil {
		if err := s.previous(r); err != nil {
			return nil, err
		}
	}
	m := marker{Job: st.Job, Started: st.Started, Starts: r.Attempt + 1, Newest: newest}
	if from != nil && from.ID < r.LastID {
		m.Branch = &branch{After: from.ID, Until: r.LastID}
	}
	// This also makes the names of checkpoints durable. A Write that was cut off may not have done
	// that for the last one.
	if err := s.writeMarker(st.Run, m); err != nil {
		return nil, err
	}
	s.run, s.mark = r.ID, m
	s.sweep()
	return r, nil
}

// begin makes a new run.
func (s *Store) begin(job string) (*Run, error) {
	s.run = ""
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: reading the folder %s: %w", s.dir, err)
	}
	var last int64 // the highest number of all folders, including those without a marker
	for _, e := range entries {
		if n, ok := runNumber(e.Name); ok {
			last = max(last, n)
		}
	}
	var unique [8]byte
	rand.Read(unique[:]) // never fails
	r := &Run{ID: fmt.Sprintf("%s%06d-%s", runPrefix, last+1, hex.EncodeToString(unique[:]))}
	if err := s.previous(r); err != nil {
		return nil, err
	}
	if err := fsx.MkdirAll(s.fs, filepath.Join(s.dir, r.ID), fsx.Private); err != nil {
		return nil, fmt.Errorf("checkpoint: making the run's folder: %w", err)
	}
	m := marker{Job: job, Started: time.Now().UTC(), Starts: 1}
	if err := s.writeMarker(r.ID, m); err != nil {
		return nil, err
	}
	s.run, s.mark = r.ID, m
	s.sweep()
	return r, nil
}

// previous finds the newest checkpoint of the runs before r.
func (s *Store) previous(r *Run) error {
	runs, err := s.runs()
	if err != nil {
		return err
	}
	for i := len(runs) - 1; i >= 0 && r.Previous == nil; i-- {
		if runs[i] == r.ID {
			continue
		}
		snap, damaged, err := s.newest(runs[i])
		r.Damaged = append(r.Damaged, damaged...)
		if errors.Is(err, ErrVersion) {
			r.Damaged = append(r.Damaged, err)
		} else if err != nil && !errors.Is(err, ErrCorrupt) {
			return err
		}
		if snap != nil && snap.ID > 0 { // the one with the id 0 publishes nothing
			r.Previous = snap
		}
	}
	return nil
}

// sweep removes what crashes left: temporary files, folders of runs that never began, and other
// runs that have no checkpoint except that of their beginning.
func (s *Store) sweep() {
	entries, err := s.fs.ReadDir(s.dir)
	s.warn("can't look for leftovers", err)
	for _, e := range entries {
		if _, ok := runNumber(e.Name); !ok || !e.Dir {
			continue
		}
		dir := filepath.Join(s.dir, e.Name)
		files, err := s.fs.ReadDir(dir)
		s.warn("can't look for leftovers", err)
		chk := false
		for _, f := range files {
			if strings.HasPrefix(f.Name, fsx.TempPrefix) {
				s.warn("can't remove a temporary file", s.fs.Remove(filepath.Join(dir, f.Name)))
			}
			id, is := chkID(f.Name)
			chk = chk || is && id > 0
		}
		if e.Name != s.run && !chk {
			s.warn("can't remove a run that left nothing", s.discard(e.Name))
		}
	}
}
