//go:build integration

package flink

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/internal/flinkenv"
	"github.com/tensorferry/tensorferry/internal/pyenv"
)

// asyncJob compiles the Java job with Flink's own asynchronous operator, once for a state of its
// sources, and returns the folder of its classes.
func asyncJob(t testing.TB) string {
	t.Helper()
	root, err := pyenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	read := func(from, to string) {
		err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, ".go") {
				return err
			}
			rel, err := filepath.Rel(from, path)
			if err != nil {
				return err
			}
			files[filepath.Join(to, rel)], err = os.ReadFile(path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	read(filepath.Join(root, "integration", "flink", "java"), "")
	read(filepath.Join(root, "sidecar", "oip", "tensorferry"), filepath.Join("src", "main", "proto", "tensorferry"))
	contents, err := json.Marshal(files) // in the order of their names
	if err != nil {
		t.Fatal(err)
	}
	dir, err := pyenv.Folder("flink-async-job", contents, func(dir string) error {
		for name, text := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, text, 0o644); err != nil {
				return err
			}
		}
		cmd := exec.Command("mvn", "-q", "-B", "-ntp", "compile")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd, err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("the job in Java: %v", err)
	}
	return filepath.Join(dir, "target", "classes")
}

// startFlink starts a cluster of one TaskManager that has the job's classes: they are loaded once,
// and a second job finds them compiled to machine code. Beam's job server is there for who asks for
// it.
func startFlink(t testing.TB, jobServer bool) *flinkenv.Cluster {
	t.Helper()
	return flinkenv.Start(t, flinkenv.Options{
		NoJobServer: !jobServer, Classpath: []string{asyncJob(t)}, Heap: 1024,
		// what fails is wrong, not to be tried again
		Settings: map[string]string{"restart-strategy.type": "none"},
	})
}

// submitAsyncJob starts the job in Java, which writes its figures to a file at its end, and returns
// its id. batch rows travel in a request.
func submitAsyncJob(t testing.TB, c *flinkenv.Cluster, m *model, l load, batch int, result string) string {
	t.Helper()
	host, port, _ := strings.Cut(c.REST(), ":")
	cmd := c.Java(256, "tensorferry.asyncjob.Main",
		"--host", host, "--port", port, "--endpoint", m.endpoint, "--sidecar-pid", fmt.Sprint(m.PID()), "--result", result,
		"--records", fmt.Sprint(l.records), "--warm", fmt.Sprint(l.warm), "--width", fmt.Sprint(rowWidth), "--batch", fmt.Sprint(batch),
		"--per-second", fmt.Sprint(l.perSecond), "--capacity", fmt.Sprint(capacity), "--checkpoint-millis", fmt.Sprint(checkpoints.Milliseconds()))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("submitting the job: %v\n%s", err, stderr.String())
	}
	var id string
	if _, err := fmt.Sscanf(stdout.String(), "job %s", &id); err != nil {
		t.Fatalf("no job in %q", stdout.String())
	}
	return id
}

// runAsyncJob runs the job in Java to its end.
func runAsyncJob(t testing.TB, c *flinkenv.Cluster, m *model, l load, batch int) figures {
	t.Helper()
	result := filepath.Join(t.TempDir(), "result.json")
	id := submitAsyncJob(t, c, m, l, batch, result)
	f := awaitFigures(t, c, id, result)
	c.Await(id, "FINISHED")
	return f
}

// awaitFigures reads the figures that a job writes.
func awaitFigures(t testing.TB, c *flinkenv.Cluster, id, result string) (f figures) {
	t.Helper()
	// Flink is asked rarely: the answers cost processor time, which is measured.
	asked := time.Now()
	c.JobManager.Eventually("the job has written its figures", func() bool {
		if time.Since(asked) > 2*time.Second {
			asked = time.Now()
			c.Await(id, "CREATED", "INITIALIZING", "RUNNING", "FINISHED")
		}
		_, err := os.Stat(result)
		return err == nil
	})
	text, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return f
}
