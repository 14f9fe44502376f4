//go:build integration

// Package integration runs job files on a real Flink cluster, with worker pools as processes and
// the scripted sidecar of package sidecartest in the test's own.
package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/internal/flinkenv"
	"github.com/tensorferry/tensorferry/internal/pyenv"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

func TestMain(m *testing.M) { pyenv.Main(m) }

// program builds tensorferry-flink, once.
var program = sync.OnceValues(func() (string, error) { return pyenv.Build("flink", "tensorferry-flink") })

// rig is a cluster with a worker pool, a sidecar, an input and a folder for results.
type rig struct {
	*testing.T
	cluster *flinkenv.Cluster
	exe     string
	dir     string
	pool    string // its address
	worker  *pyenv.Process
	sidecar *sidecartest.Server
	records int
}

func newRig(t *testing.T, c *flinkenv.Cluster, script sidecartest.Script, records int) *rig {
	t.Helper()
	exe, err := program()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, cluster: c, exe: exe, dir: t.TempDir(), pool: fmt.Sprintf("127.0.0.1:%d", pyenv.FreePort(t)), records: records}
	r.sidecar = sidecartest.StartAt(t, script, "unix://"+filepath.Join(r.dir, "s.sock"))
	r.startWorker()
	var in bytes.Buffer
	for i := range records {
		fmt.Fprintf(&in, `{"id":%d,"x":[%d]}`+"\n", i, i%1000)
	}
	if err := os.WriteFile(r.path("in.jsonl"), in.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) startWorker() {
	r.Helper()
	r.worker = pyenv.Start(r, exec.Command(r.exe, "worker", "--listen", r.pool))
	r.worker.Eventually("the worker pool is ready", func() bool { return strings.Contains(r.worker.Output(), "ready") })
}

// job writes a job file whose name is unique on the cluster. more are further lines of it.
func (r *rig) job(parallelism int, infer string, more ...string) string {
	r.Helper()
	text := fmt.Sprintf(`name: %s
parallelism: %d
source: {file: {path: in.jsonl, split_size: 10KB}}
infer: {endpoint: %q, model: model, outputs: {y: {field: y}}%s}
sink: {file: {path: out}}
%s
`, strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(r.Name())), parallelism, r.sidecar.Endpoint(), infer, strings.Join(more, "\n"))
	if err := os.WriteFile(r.path("job.yaml"), []byte(text), 0o644); err != nil {
		r.Fatal(err)
	}
	return r.path("job.yaml")
}

// submit starts a job and returns its process and Flink's name for it, which is empty if the
// command refuses the job.
func (r *rig) submit(job string, flags ...string) (*pyenv.Process, string) {
	r.Helper()
	before := map[string]bool{}
	for _, j := range r.cluster.Jobs() {
		before[j.ID] = true
	}
	p := pyenv.Start(r, exec.Command(r.exe, append([]string{"run", "--job-server", r.cluster.JobServer(), "--worker-pool", r.pool, job}, flags...)...))
	var id string
	r.cluster.JobManager.Eventually("the job is there", func() bool {
		for _, j := range r.cluster.Jobs() {
			if !before[j.ID] {
				id = j.ID
				return true
			}
		}
		return p.Over()
	})
	if id == "" && p.Wait() != 2 {
		r.Fatalf("it ended and was not refused: %s", p.Output())
	}
	return p, id
}

// results reads the result files in the order of their names. ids are those of the records, in that
// order.
func (r *rig) results() (ids []int) {
	r.Helper()
	for line := range bytes.Lines(r.parts()) {
		var v struct {
			ID int
			X  []float64
			Y  float64
		}
		if err := json.Unmarshal(line, &v); err != nil {
			r.Fatalf("%v: %s", err, line)
		}
		if v.Y != 2*v.X[0] {
			r.Fatalf("a wrong answer: %s", line)
		}
		ids = append(ids, v.ID)
	}
	return ids
}

// parts are the bytes of the result files, in the order of their names.
func (r *rig) parts() []byte { return r.read("out/part-*") }

// request is the number of a request in an error, which depends on how records met in requests.
var request = regexp.MustCompile(`, request infer/[0-9.]+-[0-9]+`)

// letters are the dead letters without their times and the numbers of their requests, in the order
// of their positions.
func (r *rig) letters() (all []string) {
	r.Helper()
	for line := range bytes.Lines(r.read("failed/part-*")) {
		var v map[string]any
		if err := json.Unmarshal(line, &v); err != nil {
			r.Fatalf("%v: %s", err, line)
		}
		delete(v, "at")
		v["error"] = request.ReplaceAllString(fmt.Sprint(v["error"]), "")
		all = append(all, fmt.Sprintf("%09.0f %v", v["position"], v))
	}
	slices.Sort(all)
	return all
}

// embedded runs a job file in the embedded runtime.
func (r *rig) embedded(job string) {
	r.Helper()
	exe, err := pyenv.Program()
	if err != nil {
		r.Fatal(err)
	}
	if out, err := exec.Command(exe, "run", "--no-progress", job).CombinedOutput(); err != nil {
		r.Fatalf("%v\n%s", err, out)
	}
}

func (r *rig) read(pattern string) (all []byte) {
	r.Helper()
	files, err := filepath.Glob(r.path(pattern))
	if err != nil {
		r.Fatal(err)
	}
	slices.Sort(files)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			r.Fatal(err)
		}
		all = append(all, text...)
	}
	return all
}

// inOrder checks that every record has one result, in the order of the input.
func (r *rig) inOrder() {
	r.Helper()
	ids := r.results()
	for i, id := range ids {
		if id != i {
			r.Fatalf("result %d is of record %d", i, id)
		}
	}
	if len(ids) != r.records {
		r.Errorf("%d results of %d records", len(ids), r.records)
	}
}

// rows is how many rows were called so far, again ones included.
func (r *rig) rows() (n int) {
	for _, c := range r.sidecar.Log() {
		n += c.Rows
	}
	return n
}

// more waits until n more calls have been made.
func (r *rig) more(n int64) {
	r.Helper()
	from := r.sidecar.Status().Calls
	r.eventually(fmt.Sprintf("%d more calls", n), func() bool { return r.sidecar.Status().Calls >= from+n })
}

// killEverything kills the worker pool, a TaskManager and the sidecar, one after another, while
// calls are made.
func (r *rig) killEverything() {
	r.Helper()
	r.more(200)
	r.worker.Kill()
	r.startWorker()
	r.more(200)
	r.cluster.TaskManagers[0].Kill()
	r.more(200)
	r.sidecar.Kill()
	<-time.After(500 * time.Millisecond) // let it be noticed
	if err := r.sidecar.Restart(); err != nil {
		r.Fatal(err)
	}
	r.more(200)
	// last: the job goes on meanwhile, and must not run out of input before the calls that are
	// awaited
	r.cluster.RestartTaskManager(0)
}

// failures are what Flink's history tells of a job, by first lines.
func (r *rig) failures(id string) (all []string) {
	r.Helper()
	for _, e := range r.cluster.Exceptions(id) {
		first, _, _ := strings.Cut(e.Stacktrace, "\n")
		all = append(all, first)
	}
	return all
}

// disconnected waits until the sidecar has no connection.
func (r *rig) disconnected() {
	r.Helper()
	r.eventually("no connection is left", func() bool { return r.sidecar.Status().Connections == 0 })
}

// eventually waits for what the test's own process can see.
func (r *rig) eventually(what string, holds func() bool) {
	r.Helper()
	r.cluster.JobManager.Eventually(what, holds)
}
