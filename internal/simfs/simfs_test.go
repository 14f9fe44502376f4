package simfs

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/tensorferry/tensorferry/internal/fsx"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes a file; what is synced is said by how.
func put(t *testing.T, d *Disk, name, data string, sync, syncDir bool) {
	t.Helper()
	f, err := d.Create(name)
	must(t, err)
	_, err = f.Write([]byte(data))
	must(t, err)
	if sync {
		must(t, f.Sync())
	}
	must(t, f.Close())
	if syncDir {
		must(t, d.SyncDir("."))
	}
}

func TestPowerLossKeepsWhatWasSyncedAndMayLoseTheRest(t *testing.T) {
	outcomes := map[string]int{}
	for seed := range uint64(400) {
		d := New()
		put(t, d, "both", "aaaa", true, true)
		put(t, d, "bytes", "bbbb", true, false)
		put(t, d, "none", "cccc", false, false)
		put(t, d, "old", "dddd", true, false)
		must(t, d.Rename("old", "new"))
		after := d.PowerLoss(seed)
		files := after.Files(".")
		if string(files["both"]) != "aaaa" {
			t.Fatalf("seed %d: a synced file reads %q", seed, files["both"])
		}
		if b, ok := files["bytes"]; ok && string(b) != "bbbb" {
			t.Fatalf("seed %d: synced bytes read %q", seed, b)
		}
		_, old := files["old"]
		_, now := files["new"]
		if old && now {
			t.Fatalf("seed %d: a rename left both names", seed)
		}
		for name, is := range map[string]bool{"old": old, "new": now, "bytes": files["bytes"] != nil,
			"torn": len(files["none"]) > 0 && string(files["none"]) != "cccc", "whole": string(files["none"]) == "cccc"} {
			if is {
				outcomes[name]++
			}
		}
	}
	for _, name := range []string{"old", "new", "bytes", "torn", "whole"} {
		if outcomes[name] == 0 {
			t.Errorf("in 400 power losses %q never came about: %v", name, outcomes)
		}
	}
}

func TestKillLosesNothingYet(t *testing.T) {
	d := New()
	put(t, d, "f", "x", false, false)
	_, err := d.Lock("lock")
	must(t, err)
	var held *fsx.LockedError
	if _, err := d.Lock("lock"); !errors.As(err, &held) || held.PID != LockPID {
		t.Fatalf("the second lock: %v", err)
	}
	next := d.Kill()
	if _, err := d.Stat("f"); !errors.Is(err, ErrCrashed) {
		t.Fatalf("the old disk still works: %v", err)
	}
	if _, err := next.Lock("lock"); err != nil {
		t.Fatalf("a dead holder keeps its lock: %v", err)
	}
	if b, err := next.ReadFile("f"); err != nil || string(b) != "x" {
		t.Fatalf("after the kill: %q, %v", b, err)
	}
	if _, err := next.LoseAll().Stat("f"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a file that was never synced survived the power loss: %v", err)
	}
}

// WriteFile at any crash point leaves the old bytes or the new ones.
func TestWriteFileIsAtomic(t *testing.T) {
	for n, crashed := 1, true; crashed; n++ {
		for seed := range uint64(20) {
			d := New()
			must(t, fsx.MkdirAll(d, "a/b", fsx.Shared))
			must(t, fsx.WriteFile(d, "a/b/f", []byte("old")))
			d.CrashAt(d.Ops() + n)
			err := fsx.WriteFile(d, "a/b/f", []byte("new!"))
			crashed = d.Crashed()
			if crashed == (err == nil) {
				t.Fatalf("crash %v, error %v", crashed, err)
			}
			after := d.PowerLoss
			if seed == 0 {
				after = func(uint64) *Disk { return d.LoseAll() }
			}
			b, err := after(seed).ReadFile("a/b/f")
			if err != nil || string(b) != "new!" && !(crashed && string(b) == "old") {
				t.Fatalf("crash at operation %d, seed %d: %q, %v", n, seed, b, err)
			}
		}
	}
}
