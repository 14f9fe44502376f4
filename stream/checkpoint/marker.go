package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/tensorferry/tensorferry/internal/fsx"
)

// marker is the file that says that a run began.
type marker struct {
	Job     string    `json:"job"`
	Started time.Time `json:"started"`
	Starts  int       `json:"starts"`
	// Branch is set when the run went back to an older checkpoint.
	Branch *branch `json:"branch,omitempty"`
	// Newest is the id of the newest checkpoint that was completed. It is nil if there was none,
	// and in markers of earlier versions.
	Newest *int64 `json:"newest,omitempty"`
	// Sum is a checksum of the other fields. Markers of earlier versions have none.
	Sum string `json:"sum,omitempty"`
}

// sealed returns a marker with its checksum.
func (m marker) sealed() (marker, error) {
	m.Sum = ""
	b, err := json.Marshal(m)
	m.Sum = fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli))
	return m, err
}

// branch says that the run went back to checkpoint After and left those up to Until behind. Once
// the run has a newer checkpoint, those belong to a past that did not happen: what they say was
// published has been replaced.
type branch struct {
	After int64 `json:"after"`
	Until int64 `json:"until"`
}

// abandoned returns the checkpoints of list that a branch has left behind.
func (b *branch) abandoned(list []Info) (dead []Info) {
	if b == nil || len(list) == 0 || list[len(list)-1].ID <= b.Until {
		return nil
	}
	for _, i := range list {
		if b.After < i.ID && i.ID <= b.Until {
			dead = append(dead, i)
		}
	}
	return dead
}

// missing looks for the newest checkpoint that was completed. If its file is gone, it adds a
// GoneError to st.Damaged, and returns it if the run has no other checkpoint.
func (s *Store) missing(st *State) error {
	if st.last == nil || st.Newest != nil && st.Newest.ID >= *st.last {
		return nil
	}
	list, err := s.checkpoints(st.Run)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(list, func(i Info) bool { return i.ID >= *st.last }) {
		return nil // it is damaged, which newest has found
	}
	gone := &GoneError{Path: filepath.Join(s.dir, st.Run, chkName(*st.last)), All: st.Newest == nil}
	st.Damaged = append([]error{gone}, st.Damaged...)
	if gone.All {
		return gone
	}
	return nil
}

func (s *Store) marker(run string) (marker, error) {
	var m marker
	name := filepath.Join(s.dir, run, markerName)
	b, err := s.fs.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("checkpoint: the run's marker %s is gone: %w", name, ErrCorrupt)
	}
	if err != nil {
		return m, fmt.Errorf("checkpoint: reading the run's marker %s: %w", name, err)
	}
	err = json.Unmarshal(b, &m)
	if is, serr := m.sealed(); err == nil && (serr != nil || m.Sum != "" && is.Sum != m.Sum || m.Job == "") {
		err = errors.New("its checksum does not match")
	}
	if err != nil {
		return marker{}, fmt.Errorf("checkpoint: the run's marker %s: %w: %w", name, ErrCorrupt, err)
	}
	return m, nil
}

// unmarked returns the state of a run whose marker is damaged or gone. The run's checkpoints say
// everything that the marker said, except which checkpoints a run that went back has left behind.
func (s *Store) unmarked(st State, damage error) (State, error) {
	var err error
	st.Newest, st.Damaged, err = s.newest(st.Run)
	st.Damaged = append([]error{damage}, st.Damaged...)
	switch {
	case err != nil:
		return st, errors.Join(damage, err)
	case st.Newest == nil:
		return st, damage
	}
	st.Job, st.Started, st.Starts = st.Newest.Job, st.Newest.Created, st.Newest.Attempt+1
	if st.Newest.Finished {
		st.Phase = Finished
	}
	return st, nil
}

func (s *Store) writeMarker(run string, m marker) error {
	m, err := m.sealed()
	var b []byte
	if err == nil {
		b, err = json.Marshal(m)
	}
	if err == nil {
		err = fsx.WriteFile(s.fs, filepath.Join(s.dir, run, markerName), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("checkpoint: writing the marker of %s: %w", run, err)
	}
	return nil
}
