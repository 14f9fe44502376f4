package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestDamagedMarkers: the checkpoints of a run know what its marker says.
func TestDamagedMarkers(t *testing.T) {
	for name, damage := range map[string]func(path string, b []byte) error{
		"gone":        func(path string, _ []byte) error { return os.Remove(path) },
		"empty":       func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
		"zeroed":      func(path string, b []byte) error { return os.WriteFile(path, make([]byte, len(b)), 0o600) },
		"another job": func(path string, b []byte) error { b[len(`{"job":"`)] ^= 1; return os.WriteFile(path, b, 0o600) },
		"another number": func(path string, b []byte) error {
			b[len(b)-len(`1,"sum":"01234567"}`)-1] ^= 2
			return os.WriteFile(path, b, 0o600)
		},
		"its own sum":      func(path string, b []byte) error { b[len(b)-4] ^= 1; return os.WriteFile(path, b, 0o600) },
		"of no job at all": func(path string, _ []byte) error { return os.WriteFile(path, []byte("{}"), 0o600) },
	} {
		for _, checkpoints := range []int64{0, 2} {
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				s, err := Open(dir, Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				run, err := s.Start("job")
				if err != nil {
					t.Fatal(err)
				}
				for id := range checkpoints {
					if err := s.Write(t.Context(), &Snapshot{ID: id + 1, Job: "job", Run: run.ID, Attempt: 3}); err != nil {
						t.Fatal(err)
					}
				}
				path := filepath.Join(dir, run.ID, markerName)
				b, err := os.ReadFile(path)
				if err == nil {
					err = damage(path, b)
				}
				if err != nil {
					t.Fatal(err)
				}
				st, err := s.State()
				if checkpoints == 0 {
					// Nothing was done. A folder without anything in it is no run.
					if name != "gone" && !errors.Is(err, ErrCorrupt) || name == "gone" && (err != nil || st.Phase != Empty) {
						t.Errorf("%+v, %v", st, err)
					}
				} else if err != nil || st.Job != "job" || st.Run != run.ID || st.Starts != 4 || st.Newest.ID != 2 || len(st.Damaged) != 1 || !errors.Is(st.Damaged[0], ErrCorrupt) {
					t.Errorf("%+v, %v", st, err)
				}
				if checkpoints > 0 {
					again, err := s.Resume("job")
					if err != nil || again.Restore.ID != 2 || again.Attempt != 4 || again.ID != run.ID || len(again.Damaged) != 1 {
						t.Errorf("%+v, %v", again, err)
					}
					if st, err := s.State(); err != nil || st.Damaged != nil {
						t.Errorf("the marker was not mended: %+v, %v", st, err)
					}
					if err := damage(path, b); err != nil {
						t.Fatal(err)
					}
					if _, err := s.From("job", "1"); err != nil {
						t.Error(err)
					}
					if _, err := s.Resume("other"); err == nil {
						t.Error("another job took the run")
					}
					if err := damage(path, b); err != nil {
						t.Fatal(err)
					}
				}
				if fresh, err := s.Fresh("job"); err != nil || checkpoints > 0 && fresh.Previous.ID != 2 {
					t.Errorf("%+v, %v", fresh, err)
				}
			})
		}
	}
}
