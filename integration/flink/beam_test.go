//go:build integration

package flink

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/internal/flinkenv"
	"github.com/tensorferry/tensorferry/internal/pyenv"
)

// beamHost is what runs tensorferry's operator on Flink: a worker pool beside the TaskManager. It
// is kept for all jobs, as the TaskManager is.
type beamHost struct {
	cluster *flinkenv.Cluster
	program string
	pool    *pyenv.Process
	address string
}

// startBeam builds the program of the pipeline, which is in the module for Flink, and starts its
// worker pool.
func startBeam(t testing.TB, c *flinkenv.Cluster) *beamHost {
	t.Helper()
	root, err := pyenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	h := &beamHost{cluster: c, program: filepath.Join(t.TempDir(), "beside"), address: fmt.Sprintf("127.0.0.1:%d", pyenv.FreePort(t))}
	build := exec.Command("go", "build", "-tags", "integration", "-o", h.program, "./integration/beside")
	build.Dir = filepath.Join(root, "flink")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	h.pool = pyenv.Start(t, exec.Command(h.program, "--listen", h.address))
	h.pool.Eventually("the worker pool is ready", func() bool { return strings.Contains(h.pool.Output(), "ready") })
	return h
}

// run runs the job until it has written its figures, and cancels it: a job of Beam's with
// checkpoints does not end. A bundleTime of 0 is the default.
func (h *beamHost) run(t testing.TB, m *model, l load, bundleTime time.Duration) figures {
	t.Helper()
	c := h.cluster
	result := filepath.Join(t.TempDir(), "result.json")
	var before []string
	for _, j := range c.Jobs() {
		before = append(before, j.ID)
	}
	cmd := exec.Command(h.program, "--job-server", c.JobServer(), "--worker-pool", h.address, "--checkpoint", checkpoints.String(), "--bundle-time", bundleTime.String(),
		"--endpoint", m.endpoint, "--sidecar-pid", fmt.Sprint(m.PID()), "--other-pids", fmt.Sprint(c.TaskManagers[0].PID()), "--result", result,
		"--records", fmt.Sprint(l.records), "--warm", fmt.Sprint(l.warm), "--width", fmt.Sprint(rowWidth),
		"--per-second", fmt.Sprint(l.perSecond), "--capacity", fmt.Sprint(capacity))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("submitting the job: %v\n%s", err, out)
	}
	// The job server has accepted the job, and hands it to Flink meanwhile.
	var id string
	c.JobManager.Eventually("the job is there", func() bool {
		for _, j := range c.Jobs() {
			if !slices.Contains(before, j.ID) {
				id = j.ID
			}
		}
		return id != ""
	})
	f := awaitFigures(t, c, id, result)
	c.Cancel(id)
	return f
}
