package main

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// midway leaves a stopped run of a job in the folder out, with several checkpoints, and a copy of
// it in kept. It returns the checkpoints' files, the newest last, and the results of an undisturbed
// run.
func midway(s *shell, spec string) (checkpoints []string, want string) {
	s.Helper()
	in, want := numbers(2000)
	s.write("in.jsonl", in)
	s.write("job.yaml", spec+"checkpoint: {interval: 5ms, retain: 4}\n"+slowSidecar)
	seen := 0
	often := func() bool { seen++; return seen > 40 && len(s.output()) > 0 }
	s.runUntil(143, []step{{"checkpoint completed", syscall.SIGTERM, often}}, "run", "job.yaml", "--log-level=debug")
	if got := s.output(); len(got) == 0 || len(got) >= len(want) {
		s.Fatalf("%d bytes of results, want a part of %d", len(got), len(want))
	}
	s.copy("out", "kept")
	s.write("job.yaml", spec+"checkpoint: {interval: 30ms, retain: 4}\n"+quickSidecar)
	return s.checkpoints(), want
}

func (s *shell) checkpoints() []string {
	s.Helper()
	all, err := filepath.Glob(filepath.Join(s.dir, "out/.checkpoints/run-*/chk-*"))
	if err != nil || len(all) < 3 {
		s.Fatalf("the checkpoints are %v, %v", all, err)
	}
	return all
}

// copy replaces a folder with a copy of another.
func (s *shell) copy(from, to string) {
	s.Helper()
	if err := errors.Join(os.RemoveAll(filepath.Join(s.dir, to)), os.CopyFS(filepath.Join(s.dir, to), os.DirFS(filepath.Join(s.dir, from)))); err != nil {
		s.Fatal(err)
	}
}

// damage changes a file; nil removes it.
func (s *shell) damage(name string, change func([]byte) []byte) {
	s.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		s.Fatal(err)
	}
	if b = change(b); b == nil {
		err = os.Remove(name)
	} else {
		err = os.WriteFile(name, b, 0o600)
	}
	if err != nil {
		s.Fatal(err)
	}
}

// damages are the ways in which a file is damaged.
var damages = map[string]func([]byte) []byte{
	"truncated": func(b []byte) []byte { return b[:len(b)/2] },
	"zeroed":    func(b []byte) []byte { return make([]byte, len(b)) },
	"empty":     func([]byte) []byte { return []byte{} },
	"gone":      func([]byte) []byte { return nil },
}

// TestDamagedCheckpoints: a job whose results are always the same continues by itself from the
// checkpoint before the damaged ones. Results that were published after it are compared.
func TestDamagedCheckpoints(t *testing.T) {
	s := newShell(t)
	checkpoints, want := midway(s, doubles(""))
	newest, before := checkpoints[len(checkpoints)-1], checkpoints[len(checkpoints)-2]
	marker := filepath.Join(filepath.Dir(newest), "run")
	id := strings.TrimLeft(strings.TrimPrefix(filepath.Base(before), "chk-"), "0")
	for name, damage := range damages {
		for what, files := range map[string][]string{"the newest": {newest}, "the newest and the marker": {newest, marker}, "the newest two": {newest, before}, "the marker": {marker}} {
			t.Run(name+" "+what, func(t *testing.T) {
				s.T = t
				start := func() {
					s.copy("kept", "out")
					for _, f := range files {
						s.damage(f, damage)
					}
				}
				start()
				r := s.run(exitOK, "run", "job.yaml", "--resume")
				if got := s.output(); got != want {
					t.Errorf("--resume gave other results, %d bytes; want %d\n%s", len(got), len(want), r.errors)
				}
				if name != "gone" {
					s.contains("stderr", r.errors, "damaged")
				}
				s.run(exitOK, "checkpoint", "verify", "out/.checkpoints")
				s.leftovers()
				start()
				s.run(exitOK, "run", "job.yaml", "--fresh")
				if got := s.output(); got != want {
					t.Errorf("--fresh gave other results, %d bytes; want %d", len(got), len(want))
				}
				if slices.Contains(files, before) {
					return
				}
				start()
				s.run(exitOK, "run", "job.yaml", "--from", id)
				if got := s.output(); got != want {
					t.Errorf("--from gave other results, %d bytes; want %d", len(got), len(want))
				}
			})
		}
	}
	s.T = t
}

// TestDamagedCheckpointsAndOtherResults: the published results differ from those made again.
func TestDamagedCheckpointsAndOtherResults(t *testing.T) {
	s := newShell(t)
	checkpoints, want := midway(s, doubles(""))
	newest := checkpoints[len(checkpoints)-1]
	s.damage(newest, damages["empty"])
	parts, err := filepath.Glob(filepath.Join(s.dir, "out/part-*"))
	if err != nil {
		t.Fatal(err)
	}
	// It is not known here which part follows the whole checkpoint. So one digit of each part
	// changes, which keeps the sizes.
	for _, p := range parts {
		s.damage(p, func(b []byte) []byte { return bytes.Replace(b, []byte(`"twice":`), []byte(`"twice" `), 1) })
	}
	r := s.run(exitFailed, "run", "job.yaml", "--resume")
	s.contains("stderr", r.errors, "is not what the job makes now", "part-", "--from")
	s.run(exitOK, "run", "job.yaml", "--fresh")
	if got := s.output(); got != want {
		t.Errorf("--fresh gave other results, %d bytes", len(got))
	}
	// A part that the job did not write is a result that is not made again.
	s.copy("kept", "out")
	s.write("out/part-00099-00000.jsonl", "{}\n")
	r = s.run(exitFailed, "run", "job.yaml", "--resume")
	s.contains("stderr", r.errors, "part-00099-00000.jsonl", "move them away")
}

// TestDamagedCheckpointsOfOtherJobs end once, with a message that says everything.
func TestDamagedCheckpointsOfOtherJobs(t *testing.T) {
	s := newShell(t)
	checkpoints, want := midway(s, strings.Replace(doubles(""), "capacity: 16", "capacity: 16\n  order: unordered\n  barrier: drain", 1))
	// The last one may have published nothing.
	newest, last, before := checkpoints[len(checkpoints)-1], checkpoints[len(checkpoints)-2], checkpoints[len(checkpoints)-3]
	id := strings.TrimLeft(strings.TrimPrefix(filepath.Base(before), "chk-"), "0")
	sorted := func(text string) string { return strings.Join(slices.Sorted(strings.Lines(text)), "") }
	for name, damage := range damages {
		s.copy("kept", "out")
		s.damage(newest, damage)
		s.damage(last, damage)
		r := s.run(exitUsage, "run", "job.yaml", "--resume")
		s.contains("stderr", r.errors, "cannot continue by itself", "part-", "--from "+id, "--fresh")
		if name != "gone" {
			s.contains("stderr", r.errors, filepath.Base(newest))
		}
		s.run(exitOK, "run", "job.yaml", "--from", id)
		if got := s.output(); sorted(got) != sorted(want) {
			t.Errorf("%s: --from gave other results", name)
		}
		s.copy("kept", "out")
		s.damage(newest, damage)
		s.damage(last, damage)
		s.run(exitOK, "run", "job.yaml", "--fresh")
		if got := s.output(); sorted(got) != sorted(want) {
			t.Errorf("%s: --fresh gave other results", name)
		}
	}
	// None is whole.
	s.copy("kept", "out")
	for _, c := range checkpoints {
		s.damage(c, damages["zeroed"])
	}
	for _, flag := range []string{"--resume", "--from=" + id} {
		if r := try("run", "job.yaml", flag); r.code == exitOK || !strings.Contains(r.errors, "damaged") {
			t.Errorf("%s: %d, %s", flag, r.code, r.errors)
		}
	}
	s.run(exitOK, "run", "job.yaml", "--fresh")
	if got := s.output(); sorted(got) != sorted(want) {
		t.Error("--fresh gave other results where no checkpoint is whole")
	}
}

// TestBitFlips: with one wrong bit anywhere in the files of a run, the results are right or the
// error is clear.
func TestBitFlips(t *testing.T) {
	s := newShell(t)
	_, want := midway(s, doubles(""))
	var files []string
	err := filepath.WalkDir(filepath.Join(s.dir, "out"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(d.Name(), "part-") && d.Name() != "lock" {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	right := 0
	for range 40 {
		s.copy("kept", "out")
		file := files[rnd.IntN(len(files))]
		var bit int
		s.damage(file, func(b []byte) []byte {
			bit = rnd.IntN(8 * len(b))
			b[bit/8] ^= 1 << (bit % 8)
			return b
		})
		r := try("run", "job.yaml", "--resume")
		if r.code == exitOK {
			right++
			if got := s.output(); got != want {
				t.Errorf("seed %d: bit %d of %s: wrong results, %d bytes; want %d", seed, bit, file, len(got), len(want))
			}
			continue
		}
		if (r.code != exitUsage && r.code != exitFailed) || !strings.Contains(r.errors, filepath.Join(s.dir, "out")) && !strings.Contains(r.errors, "out/") {
			t.Errorf("seed %d: bit %d of %s: exit code %d, and the error does not say where:\n%s", seed, bit, file, r.code, r.errors)
		}
		s.run(exitOK, "run", "job.yaml", "--fresh")
		if got := s.output(); got != want {
			t.Errorf("seed %d: bit %d of %s: wrong results with --fresh", seed, bit, file)
		}
	}
	if right < 20 {
		t.Errorf("seed %d: the job went on by itself after %d of 40 flips", seed, right)
	}
}

// TestClocksThatJump: between two processes the clock jumps by hours, so that all files are from
// the future, or old. Nothing depends on that.
func TestClocksThatJump(t *testing.T) {
	s := newShell(t)
	_, want := midway(s, doubles(""))
	for _, jump := range []time.Duration{-10 * time.Hour, 10 * time.Hour} {
		s.copy("kept", "out")
		for _, c := range s.checkpoints() {
			s.damage(c, func(b []byte) []byte {
				snap, err := checkpoint.Decode(b)
				if err != nil {
					t.Fatal(err)
				}
				snap.Created = snap.Created.Add(jump)
				return checkpoint.Encode(snap)
			})
		}
		err := filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
			if at := time.Now().Add(jump); err == nil {
				err = os.Chtimes(path, at, at)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		s.run(exitOK, "run", "job.yaml", "--resume")
		if got := s.output(); got != want {
			t.Errorf("after a jump by %v the results are others, %d bytes; want %d", jump, len(got), len(want))
		}
		s.leftovers()
	}
}
