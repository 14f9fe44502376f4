package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestGoneCheckpoints: a run that wrote to standard output or to a topic leaves no part files. Its
// marker still shows that checkpoints are gone, so nothing is silently written twice.
func TestGoneCheckpoints(t *testing.T) {
	brokers := startBroker(t, 1, "out")
	for sink, place := range map[string]string{
		"{stdout: {}}": "standard output",
		fmt.Sprintf("{kafka: {brokers: %q, topic: out}}", brokers): "the topic out",
		"{file: {path: out, consumed: true}}":                      "out",
	} {
		t.Run(place, func(t *testing.T) {
			s := newShell(t)
			in, want := numbers(2000)
			s.write("in.jsonl", in)
			spec := strings.Replace(doubles("checkpoint: {interval: 5ms, dir: out/.checkpoints}\n"), "{file: {path: out}}", sink, 1)
			s.write("job.yaml", spec+slowSidecar)
			s.runUntil(143, []step{{"checkpoint completed\" checkpoint=4", syscall.SIGTERM, nil}}, "run", "job.yaml", "--log-level=debug")
			s.write("job.yaml", spec+quickSidecar)
			// What others take away is not there any more.
			parts, err := filepath.Glob(filepath.Join(s.dir, "out/part-*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range parts {
				s.damage(p, gone)
			}
			s.copy("out", "kept")
			all := s.checkpoints()
			newest := filepath.Base(all[len(all)-1])
			before := strings.TrimLeft(strings.TrimPrefix(filepath.Base(all[len(all)-2]), "chk-"), "0")

			s.damage(all[len(all)-1], gone)
			for range 2 { // a second attempt gets the same answer
				r := s.run(exitUsage, "run", "job.yaml", "--resume")
				s.contains("stderr", r.errors, "cannot continue by itself", newest+" was completed and is gone", "--from "+before, "--fresh")
				if r.out != "" {
					t.Errorf("%d bytes were written", len(r.out))
				}
			}
			s.contains("verify", s.run(exitFailed, "checkpoint", "verify", "out/.checkpoints").errors, newest+" was completed and is gone")
			s.run(exitOK, "run", "job.yaml", "--from", before)

			s.copy("kept", "out")
			for _, c := range all {
				s.damage(c, gone)
			}
			for _, flags := range [][]string{{"--resume"}, {"--resume"}, nil} {
				r := s.run(exitUsage, append([]string{"run", "job.yaml"}, flags...)...)
				s.contains("stderr", r.errors, newest+" was completed and is gone, and so are all others", "--fresh", "writes all results to ", place+" again")
				if r.out != "" || strings.Count(strings.TrimSpace(r.errors), "\n") > 0 {
					t.Errorf("%d bytes were written, and the message is\n%s", len(r.out), r.errors)
				}
			}
			s.contains("verify", s.run(exitFailed, "checkpoint", "verify", "out/.checkpoints").errors, newest+" was completed and is gone")
			s.run(exitUsage, "run", "job.yaml", "--from", before)
			r := s.run(exitOK, "run", "job.yaml", "--fresh")
			if strings.Contains(sink, "stdout") && sorted(r.out) != sorted(want) {
				t.Errorf("--fresh wrote %d bytes, want %d", len(r.out), len(want))
			}
		})
	}
}

// TestGoneFolder: without the folder of checkpoints nothing is known about a run. Its files then
// prevent any start, until the user does what the message says.
func TestGoneFolder(t *testing.T) {
	s := newShell(t)
	in, want := numbers(300)
	s.write("in.jsonl", in)
	s.write("job.yaml", doubles(quickSidecar))
	s.run(exitOK, "run", "job.yaml")
	if err := os.RemoveAll("out/.checkpoints"); err != nil {
		t.Fatal(err)
	}
	for _, flags := range [][]string{nil, {"--resume"}, {"--fresh"}} {
		r := s.run(exitFailed, append([]string{"run", "job.yaml"}, flags...)...)
		s.contains("stderr", r.errors, "the job's checkpoints are gone", "not even a fresh one", "move or delete "+filepath.Join(s.dir, "out", "part-*"), "another folder")
	}
	parts, err := filepath.Glob("out/part-*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		s.damage(p, gone)
	}
	s.run(exitOK, "run", "job.yaml")
	if got := s.output(); got != want {
		t.Errorf("%d bytes of results, want %d", len(got), len(want))
	}
}
