package checkpoint

import (
	"errors"
	"strings"
	"testing"
)

// A run can be resumed from the checkpoint of its beginning. Apart from that the checkpoint does
// not count: the run may still be abandoned, and the run that it replaces stays until it has
// published something.
func TestBeginning(t *testing.T) {
	s, err := Open(t.TempDir(), Options{Retain: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first, err := s.Start("job")
	if err != nil {
		t.Fatal(err)
	}
	for id := range int64(3) {
		if err := write(s, first, id, id == 2); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := s.List(); err != nil || len(list) != 2 || list[0].ID != 1 {
		t.Errorf("retained are %v (%v); want 1 and 2", list, err)
	}
	newest := func(run string, id int64) {
		t.Helper()
		st, err := s.State()
		if err != nil || st.Run != run || st.Newest == nil || st.Newest.ID != id {
			t.Fatalf("the folder is at %+v (%v); want checkpoint %d of %s", st, err, id, run)
		}
	}
	newest(first.ID, 2)

	// A run that began and was forgotten.
	second, err := s.Start("job")
	if err != nil || second.Previous == nil || second.Previous.ID != 2 {
		t.Fatalf("%+v, %v", second, err)
	}
	if err := write(s, second, 0, false); err != nil {
		t.Fatal(err)
	}
	newest(second.ID, 0)
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	newest(first.ID, 2)

	// One that is discarded has published nothing that the next could replace.
	third, err := s.Start("job")
	if err != nil {
		t.Fatal(err)
	}
	if err := write(s, third, 0, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start("job"); err == nil || !strings.Contains(err.Error(), "with no checkpoint yet") {
		t.Errorf("a start over an unfinished run: %v", err)
	}
	fourth, err := s.Fresh("job")
	if err != nil || fourth.Previous == nil || fourth.Previous.Run != first.ID {
		t.Fatalf("%+v, %v; want the finished run %s to be replaced", fourth, err, first.ID)
	}
	if err := write(s, fourth, 0, false); err != nil {
		t.Fatal(err)
	}
	if runs, err := s.runs(); err != nil || len(runs) != 2 {
		t.Errorf("the folder holds %v (%v), want the finished run and the new one", runs, err)
	}

	// It is resumed from its beginning, and gone back to.
	again, err := s.Resume("job")
	if err != nil || again.Restore == nil || again.Restore.ID != 0 || again.Previous != nil || again.LastID != 0 || again.Attempt != 1 {
		t.Fatalf("%+v, %v", again, err)
	}
	if err := write(s, again, 0, false); err == nil {
		t.Error("the beginning was written twice")
	}
	if err := write(s, again, -1, false); err == nil {
		t.Error("a checkpoint was written with the id -1")
	}
	if _, err := s.From("job", "5"); !errors.Is(err, ErrNoCheckpoint) || !strings.HasSuffix(err.Error(), "has no later checkpoint yet (and 0, which is its beginning)") {
		t.Errorf("%v", err)
	}
	if err := write(s, again, 1, false); err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(); err == nil {
		t.Error("abandoned a run that has a checkpoint")
	}
	if runs, err := s.runs(); err != nil || len(runs) != 1 {
		t.Errorf("the folder holds %v (%v), want the new run alone", runs, err)
	}
	back, err := s.From("job", "0")
	if err != nil || back.Restore.ID != 0 || back.Newest.ID != 1 || back.LastID != 1 {
		t.Errorf("%+v, %v", back, err)
	}
}
