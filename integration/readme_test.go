package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeCommands runs every command of the README: those of its sh blocks, and what it says of
// `tensorferry ... job.yaml`. Suites of tests are not run by a test; each must be what .ci/run
// runs.
func TestReadmeCommands(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	gate, err := os.ReadFile("../.ci/run")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copyFolder(t, "../examples/digits", filepath.Join(dir, "examples", "digits"))
	binary := filepath.Join(dir, "tensorferry")
	run(t, "..", "go", "build", "-o", binary, "./cmd/tensorferry")

	ran := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(readme, -1) {
		for line := range strings.Lines(string(block[1])) {
			line = strings.TrimSpace(line)
			ran++
			switch args := strings.Fields(line); {
			case strings.Contains(line, "go test"):
				suite := strings.Replace(line, "cd flink && go test", "go -C flink test", 1)
				suite = strings.Replace(suite, "go test ./...", "go test -timeout 10m ./...", 1)
				if !bytes.Contains(gate, []byte(suite)) {
					t.Errorf("%q is not what .ci/run runs", line)
				}
			case strings.HasPrefix(line, "go run ./cmd/tensorferry "):
				run(t, dir, binary, args[3:]...) // the example's folder is a copy
				checkDigits(t, filepath.Join(dir, "examples", "digits", "out"))
			default:
				t.Errorf("no test runs %q", line)
			}
		}
	}
	for _, c := range regexp.MustCompile("`tensorferry ([a-z]+) job.yaml( [^`]*)?`").FindAllSubmatch(readme, -1) {
		ran++
		args := append([]string{string(c[1]), "job.yaml"}, strings.Fields(string(c[2]))...)
		run(t, filepath.Join(dir, "examples", "digits"), binary, args...)
	}
	if ran < 7 {
		t.Errorf("%d commands were found", ran)
	}
}

// checkDigits looks at the results that the README promises.
func checkDigits(t *testing.T, out string) {
	t.Helper()
	parts, err := filepath.Glob(filepath.Join(out, "part-*.jsonl"))
	if err != nil || len(parts) == 0 {
		t.Fatal(parts, err)
	}
	all, right := 0, 0
	for _, part := range parts {
		f, err := os.Open(part)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var r struct {
				Label, Digit *float64
				Scores       []float64
			}
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil || r.Digit == nil || r.Label == nil || len(r.Scores) == 0 {
				t.Fatalf("%s: %v", lines.Bytes(), err)
			}
			if all++; *r.Digit == *r.Label {
				right++
			}
		}
	}
	if all != 450 || right != 439 {
		t.Errorf("%d of %d are right", right, all)
	}
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(to, "out")); err != nil {
		t.Fatal(err)
	}
}
