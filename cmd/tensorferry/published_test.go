package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func (s *shell) read(name string) string {
	s.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.Fatal(err)
	}
	return string(b)
}

// rewrite replaces a file by what f makes of it; nil removes it.
func (s *shell) rewrite(name string, f func([]byte) []byte) (undo func()) {
	s.Helper()
	path := filepath.Join(s.dir, name)
	was, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	if now := f(was); now == nil {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, now, 0o600)
	}
	if err != nil {
		s.Fatal(err)
	}
	return func() { s.write(name, string(was)) }
}

// first names the first of the published files of a folder.
func (s *shell) first(dir string) string {
	s.Helper()
	all, err := filepath.Glob(filepath.Join(s.dir, dir, "part-*"))
	if err != nil || len(all) == 0 {
		s.Fatal(all, err)
	}
	return filepath.Join(dir, filepath.Base(all[0]))
}

func gone([]byte) []byte       { return nil }
func cutShort(b []byte) []byte { return b[:len(b)-1] }
func longer(b []byte) []byte   { return append(b, '\n') }
func sameSize(b []byte) []byte { return []byte(strings.Replace(string(b), "1", "2", 1)) }

// TestPublishedFilesThatAreGone: a run does not continue, and does not count as finished, while
// results or dead letters of any of its checkpoints are missing or have another size.
func TestPublishedFilesThatAreGone(t *testing.T) {
	s := newShell(t)
	in, want := numbers(many)
	s.write("in.jsonl", in)
	var bad []int
	faults := ""
	for n := 5; n < many; n += 97 {
		bad = append(bad, n)
		faults += fmt.Sprintf("&fault=bad@row=%d", n)
	}
	want = without(want, bad...)
	job := func(latency, interval string) {
		s.write("job.yaml", failing("  on_error: {record: dead_letter}", latency+faults, lettersSection+"checkpoint: {retain: 100, interval: "+interval+"}\n"))
	}
	job("&latency=0s+3ms", "10ms")
	s.runUntil(143, []step{{"checkpoint completed\" checkpoint=6", syscall.SIGTERM, nil}}, "run", "job.yaml", "--log-level=debug")
	job("", "1h")

	verify := func(code int, wants ...string) {
		t.Helper()
		r := s.run(code, "checkpoint", "verify", "out/.checkpoints")
		s.contains("verify", r.out+r.errors, wants...)
	}
	refused := func(args ...string) {
		t.Helper()
		for _, dir := range []string{"out", "failed"} {
			name := s.first(dir)
			for what, f := range map[string]func([]byte) []byte{"is missing": gone, "bytes and had": cutShort, " bytes and had": longer} {
				undo := s.rewrite(name, f)
				s.contains("stderr", s.run(exitFailed, args...).errors, filepath.Base(name), what, filepath.Join(s.dir, dir), "put it back, or start afresh")
				verify(exitFailed, "wrong: "+filepath.Join(s.dir, name), what)
				undo()
			}
			undo := s.rewrite(name, sameSize)
			verify(exitFailed, "wrong: "+filepath.Join(s.dir, name)+" is not what was written", "1 file(s) are not as they were written")
			undo()
		}
		verify(exitOK, "checkpoint 6 of job failing", "sink: ", "dead-letters: ", "all is well")
	}
	refused("run", "--resume", "job.yaml")
	refused("run", "--from", "6", "job.yaml")
	s.run(exitOK, "run", "--resume", "job.yaml")
	if s.output() != want {
		t.Error("the results are not those of an undisturbed run")
	}
	for _, dir := range []string{"out", "failed"} {
		name := s.first(dir)
		undo := s.rewrite(name, gone)
		s.contains("stderr", s.run(exitFailed, "run", "--resume", "job.yaml").errors, filepath.Base(name)+" is missing")
		verify(exitFailed, "is missing")
		undo()
	}
	s.contains("stdout", s.run(exitOK, "run", "--resume", "job.yaml").out, "the run was already finished")

	// A new run does not need them.
	s.rewrite(s.first("out"), gone)
	s.run(exitOK, "run", "job.yaml")
	if s.output() != want {
		t.Error("a new run's results are not those of an undisturbed run")
	}
	s.leftovers()
}

// TestConsumedFiles: a run continues without files that the job file allows others to take away.
func TestConsumedFiles(t *testing.T) {
	s := newShell(t)
	in, want := numbers(many)
	s.write("in.jsonl", in)
	job := func(extra string) {
		s.write("job.yaml", strings.Replace(doubles(extra), "path: out}", "path: out, consumed: true}", 1))
	}
	job("checkpoint: {interval: 10ms}\n" + slowSidecar)
	s.runUntil(143, []step{{"checkpoint completed\" checkpoint=3", syscall.SIGTERM, nil}}, "run", "job.yaml", "--log-level=debug")
	taken := s.output()
	all, err := filepath.Glob(filepath.Join(s.dir, "out", "part-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	s.contains("verify", s.run(exitOK, "checkpoint", "verify", "out/.checkpoints").out, fmt.Sprint(len(all))+" were taken away, as the job allows (consumed)")
	job(quickSidecar)
	s.run(exitOK, "run", "--resume", "job.yaml")
	if sorted(taken+s.output()) != sorted(want) {
		t.Error("what was taken and what is there are not the results of an undisturbed run")
	}
}

// TestVerifyDamagedCheckpoints: verify names each damaged checkpoint, and reads the others.
func TestVerifyDamagedCheckpoints(t *testing.T) {
	s := newShell(t)
	s.contains("stderr", s.run(exitFailed, "checkpoint", "verify", "none").errors, "no such file")
	in, _ := numbers(many)
	s.write("in.jsonl", in)
	s.write("job.yaml", doubles("checkpoint: {interval: 10ms}\n"+slowSidecar))
	s.runUntil(143, []step{{"checkpoint completed\" checkpoint=3", syscall.SIGTERM, nil}}, "run", "job.yaml", "--log-level=debug")
	all, err := filepath.Glob(filepath.Join(s.dir, "out/.checkpoints/run-*/chk-*"))
	if err != nil || len(all) < 2 {
		t.Fatal(all, err)
	}
	newest, err := filepath.Rel(s.dir, all[len(all)-1])
	if err != nil {
		t.Fatal(err)
	}
	s.run(exitOK, "checkpoint", "verify", newest)
	s.rewrite(newest, sameSizeDamage)
	r := s.run(exitFailed, "checkpoint", "verify", "out/.checkpoints")
	s.contains("verify", r.errors, "wrong: out/.checkpoints/", filepath.Base(newest), "the checkpoint is damaged")
	s.contains("verify", r.out, filepath.Base(all[0])+": checkpoint ", "sink: ")
	s.run(exitFailed, "checkpoint", "verify", newest)
}

func sameSizeDamage(b []byte) []byte { b[len(b)/2] ^= 1; return b }
