package checkpoint

import (
	"testing"
)

// A start that failed before it did anything leaves the folder as it was.
func TestAbandon(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	phase := func(want Phase, run string) {
		t.Helper()
		st, err := s.State()
		if err != nil || st.Phase != want || st.Run != run {
			t.Fatalf("the folder is %v with run %q (%v), want %v with run %q", st.Phase, st.Run, err, want, run)
		}
	}
	if err := s.Abandon(); err == nil {
		t.Error("abandoned a run that was never begun")
	}
	if _, err := s.Start("job"); err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	phase(Empty, "")

	run, err := s.Start("job")
	if err != nil {
		t.Fatal(err)
	}
	snap := &Snapshot{ID: 1, Job: "job", Run: run.ID, Finished: true}
	if err := s.Write(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(); err == nil {
		t.Error("abandoned a run that has a checkpoint")
	}
	phase(Finished, run.ID)

	// The run that was to replace the finished one is gone, and that one is there.
	if _, err := s.Start("job"); err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	phase(Finished, run.ID)
}
