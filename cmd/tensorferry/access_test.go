//go:build unix

package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tensorferry/tensorferry/internal/cli"
)

// umaskVar makes the test binary a process with that umask.
const umaskVar = "TENSORFERRY_TEST_UMASK"

// TestAccess: files with records are for this user only, whatever the umask. The umask decides
// about results.
func TestAccess(t *testing.T) {
	mask, child := os.LookupEnv(umaskVar)
	if !child {
		for _, mask := range []string{"0", "022", "077"} {
			cmd := exec.Command(os.Args[0], "-test.run=^TestAccess$", "-test.v")
			cmd.Env = append(os.Environ(), umaskVar+"="+mask)
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestAccess") {
				t.Errorf("umask %s: %v\n%s", mask, err, out)
			}
		}
		return
	}
	n, err := strconv.ParseUint(mask, 8, 12)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Umask(int(n))
	results := 0o666 &^ fs.FileMode(n)
	s := newShell(t)
	in, _ := numbers(400)
	s.write("in.jsonl", in+"not JSON\n")
	// Look at files that exist only during the run too, from time to time.
	job := strings.Replace(doubles("checkpoint: {interval: 5ms, dir: kept/checkpoints}\n"+slowSidecar), "  capacity: 16\n", "  capacity: 16\n  on_error: {record: dead_letter}\n", 1)
	s.write("job.yaml", job+"dead_letter: {file: {path: failed}}\n")
	seen := map[string]bool{}
	look := func() {
		err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // it is gone by now
			}
			info, err := d.Info()
			if err != nil {
				return nil
			}
			rel, _ := filepath.Rel(s.dir, path)
			kind, want := "", fs.FileMode(0)
			switch dir, base := filepath.Split(rel); {
			case rel == "kept/checkpoints" || strings.HasPrefix(dir, "kept/checkpoints/") && d.IsDir() || rel == "failed":
				kind, want = "a private folder", 0o700
			case strings.HasPrefix(dir, "kept/checkpoints/"), dir == "failed/":
				kind, want = "a private file", 0o600
			case rel == "out":
				kind, want = "the folder of the results", 0o777&^fs.FileMode(n)
			case dir == "out/" && strings.HasPrefix(base, ".pending-"):
				kind, want = "a pending file", 0o600
			case dir == "out/" && strings.HasPrefix(base, "part-"):
				kind, want = "a result", results
			case dir == "out/" && strings.HasPrefix(base, "."):
				kind, want = "a list", 0o600
			}
			if kind != "" {
				seen[kind] = true
				if got := info.Mode().Perm(); got != want {
					t.Errorf("umask %s: %s, %s, has the permissions %o; want %o", mask, rel, kind, got, want)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	errs := &console{steps: []step{{"checkpoint completed", 0, func() bool { look(); return false }}}}
	s.check(exitOK, result{program.Run(&cli.World{Stdout: errs, Stderr: errs}, []string{"run", "job.yaml", "--log-level=debug"}), "", errs.String()}, nil)
	look()
	for _, kind := range []string{"a private folder", "a private file", "the folder of the results", "a result"} {
		if !seen[kind] {
			t.Errorf("nothing was seen of the kind: %s", kind)
		}
	}
}
