package checkpoint

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/internal/simfs"
)

// leave makes a folder with checkpoints 1 to 3 of a run, and removes those that are named.
func leave(t *testing.T, remove ...int64) (*simfs.Disk, *Store, *Run) {
	t.Helper()
	d := simfs.New()
	s := open(t, d)
	r, err := s.Start("job")
	if err != nil {
		t.Fatal(err)
	}
	for id := int64(1); id <= 3; id++ {
		mustWrite(t, s, r, id, false)
	}
	for _, id := range remove {
		if err := d.Remove(filepath.Join("ckpt", r.ID, chkName(id))); err != nil {
			t.Fatal(err)
		}
	}
	return d, s, r
}

// TestGoneCheckpoints: the marker knows the newest checkpoint that was completed, also when its
// file is gone, and with all others.
func TestGoneCheckpoints(t *testing.T) {
	for _, c := range []struct {
		remove []int64
		newest int64 // of what is there
		says   string
	}{
		{nil, 3, ""},
		{[]int64{1, 2}, 3, ""},
		{[]int64{3}, 2, "chk-00000003 was completed and is gone"},
		{[]int64{2, 3}, 1, "chk-00000003 was completed and is gone"},
		{[]int64{1, 2, 3}, 0, "chk-00000003 was completed and is gone, and so are all others of the run"},
	} {
		t.Run(fmt.Sprint(c.remove), func(t *testing.T) {
			_, s, run := leave(t, c.remove...)
			// A look changes nothing, and neither does a resumption without a checkpoint.
			for range 2 {
				st, err := s.State()
				if (err != nil) != (c.newest == 0) || st.Phase != Unfinished || st.Job != "job" {
					t.Fatalf("%+v, %v", st, err)
				}
				if said := fmt.Sprint(errors.Join(st.Damaged...)); !strings.HasSuffix(said, c.says) || (said == "<nil>") != (c.says == "") {
					t.Errorf("it says %s; want %q", said, c.says)
				}
				r, err := s.Resume("job")
				if c.newest == 0 {
					if gone, ok := errors.AsType[*GoneError](err); !ok || !gone.All || !errors.Is(err, ErrCorrupt) {
						t.Errorf("%+v, %v; want a refusal", r, err)
					}
				} else if err != nil || r.Restore.ID != c.newest || r.LastID != 3 {
					t.Errorf("%+v, %v; want checkpoint %d, and the next above 3", r, err, c.newest)
				}
			}
			if c.newest > 0 {
				mustWrite(t, s, run, 4, false)
				if st, err := s.State(); err != nil || st.Damaged != nil || st.Newest.ID != 4 {
					t.Errorf("after a new checkpoint: %+v, %v", st, err)
				}
			} else if _, err := s.From("job", "3"); !errors.Is(err, ErrNoCheckpoint) || !strings.HasSuffix(err.Error(), "has no checkpoint any more") {
				t.Error(err)
			}
			if _, err := s.Fresh("job"); err != nil {
				t.Error(err)
			}
			if st, err := s.State(); err != nil || st.Newest != nil || st.Damaged != nil {
				t.Errorf("the run that took its place: %+v, %v", st, err)
			}
		})
	}
}

// TestGoneBeginning: where a run began is not known any more.
func TestGoneBeginning(t *testing.T) {
	d := simfs.New()
	s := open(t, d)
	r, _ := s.Start("job")
	mustWrite(t, s, r, 0, false)
	if err := d.Remove(filepath.Join("ckpt", r.ID, chkName(0))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resume("job"); !errors.As(err, new(*GoneError)) {
		t.Errorf("%v", err)
	}
}

// TestMarkersOfEarlierVersions: they do not have the newest checkpoint, so a missing one is not
// noticed.
func TestMarkersOfEarlierVersions(t *testing.T) {
	for _, remove := range [][]int64{nil, {3}, {1, 2, 3}} {
		_, s, run := leave(t, remove...)
		m := s.mark
		m.Newest = nil
		if err := s.writeMarker(run.ID, m); err != nil {
			t.Fatal(err)
		}
		r, err := s.Resume("job")
		if err != nil || r.LastID != int64(3-len(remove)) || r.Damaged != nil {
			t.Fatalf("without %v: %+v, %v", remove, r, err)
		}
		if m, err := s.marker(run.ID); err != nil || (m.Newest == nil) != (len(remove) == 3) {
			t.Errorf("without %v: the marker is now %+v, %v", remove, m, err)
		}
	}
}

// TestGoneAfterAnyCrash: a checkpoint that a Write has promised is missed when it is gone, whatever
// crashed behind it; and one that was not yet noted is there.
func TestGoneAfterAnyCrash(t *testing.T) {
	for n, crashed := 1, true; crashed; n++ {
		for way := range uint64(6) {
			d := simfs.New()
			d.CrashAt(n)
			done, err := script(d)
			if crashed = d.Crashed(); !crashed && err != nil {
				t.Fatal(err)
			}
			after := d.PowerLoss(way)
			switch way {
			case 0:
				after = d.LoseAll()
			case 1:
				after = d.Kill()
			}
			if done.id == 0 {
				continue
			}
			s := open(t, after)
			st, err := s.State()
			if err != nil || st.Damaged != nil {
				t.Fatalf("crash at operation %d, way %d: %+v, %v", n, way, st, err)
			}
			if st.Run != done.run {
				continue // the next one began as it crashed
			}
			list, err := s.checkpoints(done.run)
			if err != nil {
				t.Fatal(err)
			}
			for i, info := range slices.Backward(list) {
				if err := after.Remove(info.Path); err != nil {
					t.Fatal(err)
				}
				if info.ID > done.id {
					continue // Write has not returned nil for this one
				}
				st, err := s.State()
				if (err != nil) != (i == 0) || len(st.Damaged) != 1 || !errors.As(st.Damaged[0], new(*GoneError)) {
					t.Fatalf("crash at operation %d, way %d: without checkpoint %d: %+v, %v", n, way, info.ID, st, err)
				}
			}
			s.Close()
		}
	}
}
