package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/internal/fsx"
	"github.com/tensorferry/tensorferry/internal/simfs"
)

var quiet = slog.New(slog.DiscardHandler)

func open(t *testing.T, fsys fsx.FS) *Store {
	t.Helper()
	s, err := Open("ckpt", Options{FS: fsys, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// write stores checkpoint id of a run.
func write(s *Store, r *Run, id int64, finished bool) error {
	return s.Write(context.Background(), &Snapshot{ID: id, Job: "job", Run: r.ID, Attempt: r.Attempt, Finished: finished,
		Sections: []Section{{Operator: "sink", Parts: []Part{{Data: fmt.Append(nil, id)}}}}})
}

func mustWrite(t *testing.T, s *Store, r *Run, id int64, finished bool) {
	t.Helper()
	if err := write(s, r, id, finished); err != nil {
		t.Fatal(err)
	}
}

func newestID(t *testing.T, s *Store) int64 {
	t.Helper()
	snap, err := s.Newest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if snap == nil {
		return 0
	}
	return snap.ID
}

func ids(t *testing.T, s *Store) (list []int64) {
	t.Helper()
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		list = append(list, i.ID)
	}
	return list
}

func TestRetention(t *testing.T) {
	s := open(t, simfs.New())
	r, err := s.Start("job")
	if err != nil {
		t.Fatal(err)
	}
	if snap, err := s.Newest(context.Background()); snap != nil || err != nil {
		t.Fatalf("a run without checkpoints has %v, %v", snap, err)
	}
	for id := int64(1); id <= 5; id++ {
		mustWrite(t, s, r, id, false)
	}
	if got := ids(t, s); !slices.Equal(got, []int64{3, 4, 5}) {
		t.Errorf("kept %v; want the newest three", got)
	}
	if err := write(s, r, 5, false); err == nil {
		t.Error("an id was written twice")
	}
	if err := write(s, &Run{ID: "run-000009-00"}, 6, false); err == nil {
		t.Error("a snapshot of another run was written")
	}
}

func TestDamagedNewestIsPassedOver(t *testing.T) {
	d := simfs.New()
	s := open(t, d)
	r, _ := s.Start("job")
	for id := int64(1); id <= 3; id++ {
		mustWrite(t, s, r, id, false)
	}
	damage := func(id int64, cut func([]byte) []byte) {
		name := filepath.Join("ckpt", r.ID, chkName(id))
		b, err := d.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := fsx.WriteFile(d, name, cut(b)); err != nil {
			t.Fatal(err)
		}
	}
	var said strings.Builder
	s.log = slog.New(slog.NewTextHandler(&said, nil))
	damage(3, func(b []byte) []byte { return b[:len(b)-9] })
	if id := newestID(t, s); id != 2 {
		t.Fatalf("newest is %d; want 2, since 3 is torn", id)
	}
	if !strings.Contains(said.String(), chkName(3)) {
		t.Errorf("the log does not name the torn one: %s", said.String())
	}
	st, err := s.State()
	if err != nil || st.Phase != Unfinished || st.Newest.ID != 2 || len(st.Damaged) != 1 {
		t.Fatalf("state %+v, %v", st, err)
	}
	// A checkpoint of a newer program is not damage: nothing older may be used instead.
	damage(2, func(b []byte) []byte { b[len(magic)] = 99; return b })
	if _, err := s.Newest(context.Background()); !errors.Is(err, ErrVersion) {
		t.Fatalf("a newer version: %v", err)
	}
	damage(2, func([]byte) []byte { return nil })
	damage(1, func([]byte) []byte { return []byte("no") })
	if _, err := s.Newest(context.Background()); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("all damaged: %v", err)
	}
	if _, err := s.Resume("job"); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("resume of a run whose checkpoints are all damaged: %v", err)
	}
	if _, err := s.Fresh("job"); err != nil {
		t.Fatalf("a damaged run can't be discarded: %v", err)
	}
	if id, err := lastID(s); id != 0 || err != nil {
		t.Fatalf("the new run has checkpoint %d, %v", id, err)
	}
}

// lastID returns the newest id of the run under way.
func lastID(s *Store) (int64, error) {
	list, err := s.checkpoints(s.run)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[len(list)-1].ID, nil
}

func TestPhases(t *testing.T) {
	d := simfs.New()
	s := open(t, d)
	if st, err := s.State(); err != nil || st.Phase != Empty {
		t.Fatalf("%+v, %v", st, err)
	}
	if _, err := s.From("job", "1"); !errors.Is(err, ErrNoCheckpoint) {
		t.Errorf("--from in an empty folder: %v", err)
	}
	a, err := s.Resume("job") // nothing there: starts
	if err != nil || a.Restore != nil || a.Attempt != 0 {
		t.Fatalf("%+v, %v", a, err)
	}

	// A run without a checkpoint is unfinished, and resumes from the beginning.
	unfinished := func(id int64) {
		t.Helper()
		_, err := s.Start("job")
		e, ok := errors.AsType[*UnfinishedError](err)
		if !ok || e.Checkpoint != id || e.Run == "" {
			t.Fatalf("start over an unfinished run: %v", err)
		}
	}
	unfinished(0)
	again, err := s.Resume("job")
	if err != nil || again.ID != a.ID || again.Restore != nil || again.Attempt != 1 {
		t.Fatalf("%+v, %v", again, err)
	}
	mustWrite(t, s, again, 1, false)
	mustWrite(t, s, again, 2, false)
	unfinished(2)

	// Another job is refused in every way.
	for name, f := range map[string]func(string) (*Run, error){"start": s.Start, "resume": s.Resume, "fresh": s.Fresh,
		"from": func(job string) (*Run, error) { return s.From(job, "1") }} {
		_, err := f("other")
		if e, ok := errors.AsType[*OtherJobError](err); !ok || e.Owner != "job" {
			t.Errorf("%s by another job: %v", name, err)
		}
	}

	// One of the older checkpoints, in each way to name it.
	for _, ref := range []string{"1", "chk-00000001", "chk-1", filepath.Join("ckpt", a.ID, "chk-00000001")} {
		r, err := s.From("job", ref)
		if err != nil || r.Restore.ID != 1 || r.Newest.ID != 2 || r.LastID != 2 || r.Attempt <= r.Newest.Attempt {
			t.Fatalf("from %s: %+v, %v", ref, r, err)
		}
	}
	for _, ref := range []string{"3", "chk-", "run-000009-00/chk-00000001", ""} {
		if _, err := s.From("job", ref); !errors.Is(err, ErrNoCheckpoint) || !strings.Contains(err.Error(), "1, 2") {
			t.Errorf("from %q: %v", ref, err)
		}
	}

	r, err := s.Resume("job")
	if err != nil || r.Restore.ID != 2 || r.Previous != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	mustWrite(t, s, r, 3, true)
	if st, _ := s.State(); st.Phase != Finished || st.Job != "job" || st.Starts != r.Attempt+1 {
		t.Fatalf("%+v", st)
	}
	if r, err = s.Resume("job"); err != nil || !r.Restore.Finished {
		t.Fatalf("resume of a finished run: %+v, %v", r, err)
	}

	// A new run knows what the finished one published, until it has a checkpoint of its own.
	b, err := s.Start("job")
	if err != nil || b.ID == a.ID || b.Previous == nil || b.Previous.ID != 3 || b.Restore != nil {
		t.Fatalf("%+v, %v", b, err)
	}
	if b, err = s.Resume("job"); err != nil || b.Previous == nil || b.Previous.ID != 3 || b.Restore != nil {
		t.Fatalf("%+v, %v", b, err)
	}
	// So does one that takes the place of an unfinished run.
	c, err := s.Fresh("job")
	if err != nil || c.Previous == nil || c.Previous.Run != a.ID {
		t.Fatalf("%+v, %v", c, err)
	}
	mustWrite(t, s, c, 1, false)
	if got := ids(t, s); !slices.Equal(got, []int64{1}) {
		t.Fatalf("the folder still holds %v", got)
	}
	e, err := s.Fresh("job")
	if err != nil || e.Previous == nil || e.Previous.Run != c.ID {
		t.Fatalf("%+v, %v", e, err)
	}
	if runs, err := s.runs(); err != nil || len(runs) != 2 {
		t.Fatalf("runs %v, %v; want the unfinished one and the new one", runs, err)
	}
}

func TestLockAndReadOnly(t *testing.T) {
	d := simfs.New()
	if _, err := Open("ckpt", Options{FS: d, ReadOnly: true}); err == nil {
		t.Error("a folder that is not there was opened for reading")
	}
	s := open(t, d)
	r, _ := s.Start("job")
	mustWrite(t, s, r, 1, false)
	_, err := Open("ckpt", Options{FS: d})
	if e, ok := errors.AsType[*LockedError](err); !ok || e.PID != simfs.LockPID {
		t.Fatalf("the second holder: %v", err)
	}
	ro, err := Open("ckpt", Options{FS: d, ReadOnly: true, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if id := newestID(t, ro); id != 1 {
		t.Errorf("read-only: newest %d", id)
	}
	if err := write(ro, r, 2, false); err == nil {
		t.Error("a read-only store was written")
	}
	if _, err := ro.Start("job"); err == nil {
		t.Error("a read-only store began a run")
	}
	if err := errors.Join(s.Close(), s.Close(), ro.Close()); err != nil {
		t.Fatal(err)
	}
	if err := write(s, r, 2, false); err == nil {
		t.Error("a closed store was written")
	}
	open(t, d).Close()
}

// TestAnyCrash runs a script of two runs on a disk that crashes at each of its
// operations in turn, in each way a machine can, and looks at what is left.
func TestAnyCrash(t *testing.T) {
	for n, crashed := 1, true; crashed; n++ {
		for way := range uint64(12) {
			d := simfs.New()
			d.CrashAt(n)
			done, err := script(d)
			crashed = d.Crashed()
			if !crashed && err != nil {
				t.Fatal(err)
			}
			after := d.PowerLoss(way)
			switch way {
			case 0:
				after = d.LoseAll()
			case 1:
				after = d.Kill()
			}
			if err := inspect(after, done); err != nil {
				t.Fatalf("crash at operation %d, way %d, after %+v: %v", n, way, done, err)
			}
		}
	}
}

// progress is what the script knows to be durable.
type progress struct {
	run      string // the newest run that was begun
	id       int64  // its newest checkpoint
	finished bool
	previous int64 // the newest checkpoint of the run before it, while that is needed
}

func script(d *simfs.Disk) (p progress, err error) {
	s, err := Open("ckpt", Options{FS: d, Logger: quiet, Retain: 2})
	if err != nil {
		return p, err
	}
	defer s.Close()
	for range 2 {
		r, err := s.Start("job")
		if err != nil {
			return p, err
		}
		p = progress{run: r.ID, previous: p.id}
		for id := int64(1); id <= 4; id++ {
			if err := write(s, r, id, id == 4); err != nil {
				return p, err
			}
			p.id, p.finished, p.previous = id, id == 4, 0
		}
	}
	return p, nil
}

func inspect(d *simfs.Disk, p progress) error {
	s, err := Open("ckpt", Options{FS: d, Logger: quiet})
	if err != nil {
		return err
	}
	defer s.Close()
	st, err := s.State()
	if err != nil {
		return err
	}
	var id int64
	if st.Newest != nil {
		id = st.Newest.ID
		if got := string(st.Newest.Sections[0].Parts[0].Data); got != fmt.Sprint(id) {
			return fmt.Errorf("checkpoint %d holds %q", id, got)
		}
	}
	// What came after the last thing known may be there too, as a whole.
	switch {
	case p.run == "":
		if id != 0 {
			return fmt.Errorf("checkpoint %d of nothing", id)
		}
	case st.Run == p.run:
		if id != p.id && id != p.id+1 {
			return fmt.Errorf("newest is %d; %d is known to be durable", id, p.id)
		}
	case !p.finished || id != 0:
		return fmt.Errorf("the newest run is %s at %d", st.Run, id)
	}
	if len(st.Damaged) > 0 {
		return errors.Join(st.Damaged...)
	}
	r, err := s.Resume("job")
	if err != nil {
		return err
	}
	if r.Restore == nil && p.previous != 0 && (r.Previous == nil || r.Previous.ID != p.previous) {
		return fmt.Errorf("the run before is not known: %+v", r.Previous)
	}
	if err := write(s, r, r.LastID+1, true); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	for name := range d.Files("ckpt") {
		if strings.Contains(name, fsx.TempPrefix) {
			return fmt.Errorf("%s is left", name)
		}
	}
	return nil
}

// A failure of any operation is an error or is made up for. It never loses a checkpoint for which
// Write returned nil.
func TestAnyFault(t *testing.T) {
	broken := errors.New("no space left")
	for n := 1; ; n++ {
		d := simfs.New()
		hit := false
		d.Fail(func(op simfs.Op) error {
			if op.N != n {
				return nil
			}
			hit = true
			return broken
		})
		done, err := script(d)
		if !hit {
			if err != nil || n < 20 {
				t.Fatalf("after %d operations: %v", n, err)
			}
			return
		}
		if err != nil && !errors.Is(err, broken) {
			t.Fatalf("fault at %d: an error that does not say why: %v", n, err)
		}
		d.Fail(nil)
		if err := inspect(d.LoseAll(), done); err != nil {
			t.Fatalf("fault at %d: %v", n, err)
		}
	}
}

func TestRealFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", ".checkpoints")
	s, err := Open(dir, Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Start("job")
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, s, r, 1, false)
	if _, err := Open(dir, Options{}); !errors.As(err, new(*LockedError)) {
		t.Errorf("the second holder: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if r, err = s.Resume("job"); err != nil || r.Restore.ID != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Write(ctx, &Snapshot{ID: 2, Run: r.ID}); !errors.Is(err, context.Canceled) {
		t.Errorf("a write after the end: %v", err)
	}
}

// When a run has gone back and written again, the checkpoints in between are of a
// past that did not happen, and are gone; before that they are all still there.
func TestGoingBackLeavesCheckpointsBehind(t *testing.T) {
	d := simfs.New()
	s := open(t, d)
	r, _ := s.Start("job")
	for id := int64(1); id <= 3; id++ {
		mustWrite(t, s, r, id, false)
	}
	if _, err := s.From("job", "1"); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Resume("job"); err != nil || r.Restore.ID != 3 {
		t.Fatalf("a resume after going back and not writing: %+v, %v", r, err)
	}
	r, err := s.From("job", "1")
	if err != nil {
		t.Fatal(err)
	}
	// The removal is missed, as by a crash, and made up for at the next start.
	d.Fail(func(op simfs.Op) error {
		if op.Kind == "remove" && strings.Contains(op.Name, chkPrefix) && !strings.Contains(op.Name, fsx.TempPrefix) {
			return errors.New("not now")
		}
		return nil
	})
	mustWrite(t, s, r, 4, false)
	d.Fail(nil)
	if got := ids(t, s); !slices.Equal(got, []int64{1, 2, 3, 4}) {
		t.Fatalf("the folder holds %v", got)
	}
	s.Close()
	s = open(t, d)
	if _, err := s.From("job", "3"); !errors.Is(err, ErrNoCheckpoint) || !strings.Contains(err.Error(), "the newest run has 1, 4") {
		t.Errorf("a checkpoint that was left behind: %v", err)
	}
	if r, err = s.From("job", "1"); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, s, r, 5, false)
	if got := ids(t, s); !slices.Equal(got, []int64{1, 5}) {
		t.Errorf("the folder holds %v", got)
	}
}

func TestAbandonIsAsIfNothingWasBegun(t *testing.T) {
	s := open(t, simfs.New())
	r, _ := s.Start("job")
	mustWrite(t, s, r, 1, true)
	if err := s.Abandon(); err == nil {
		t.Error("a run with a checkpoint was forgotten")
	}
	if _, err := s.Start("job"); err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	if st, err := s.State(); err != nil || st.Phase != Finished || st.Run != r.ID {
		t.Errorf("%+v, %v; want the finished run", st, err)
	}
	if err := s.Abandon(); err == nil {
		t.Error("a run was forgotten twice")
	}
}
