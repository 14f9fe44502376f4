//go:build integration

package integration

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/internal/flinkenv"
	"github.com/tensorferry/tensorferry/internal/pyenv"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// newCluster starts a cluster that notices soon what is killed.
func newCluster(t *testing.T) *flinkenv.Cluster {
	return flinkenv.Start(t, flinkenv.Options{TaskManagers: 2, Slots: 2, Settings: map[string]string{
		// A killed process is missed once two heartbeats could not be delivered; the timeout is for
		// one that stands still.
		"heartbeat.interval": "500", "heartbeat.timeout": "60000",
		// A job of two subtasks runs on both.
		"cluster.evenly-spread-out-slots": "true",
	}})
}

// TestFiles: jobs from files to files, on a cluster of two TaskManagers.
func TestFiles(t *testing.T) {
	c := newCluster(t)
	t.Run("digits", func(t *testing.T) { testDigits(t, c) })
	t.Run("killed", func(t *testing.T) { testFilesKilled(t, c) })
	t.Run("dead_letters", func(t *testing.T) { testDeadLetters(t, c) })
	t.Run("permanent", func(t *testing.T) { testPermanent(t, c) })
	t.Run("cancelled", func(t *testing.T) { testCancelled(t, c) })
}

// testDigits: the job file of the examples, as it is, gives on Flink the bytes that it gives in the
// embedded runtime.
func testDigits(t *testing.T, c *flinkenv.Cluster) {
	root, err := pyenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	examples := filepath.Join(root, "examples", "digits")
	r := newRig(t, c, sidecartest.Script{}, 0)
	for _, name := range []string{"job.yaml", "digits.jsonl", "digits.onnx"} {
		text, err := os.ReadFile(filepath.Join(examples, name))
		if err == nil {
			err = os.WriteFile(r.path(name), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p, _ := r.submit(r.path("job.yaml"))
	if code := p.Wait(); code != 0 {
		t.Fatalf("it ended with %d", code)
	}
	onFlink := r.parts()
	if err := os.RemoveAll(r.path("out")); err != nil {
		t.Fatal(err)
	}
	r.embedded(r.path("job.yaml"))
	if here := r.parts(); len(here) == 0 || !bytes.Equal(onFlink, here) {
		t.Errorf("%d bytes on Flink, %d here, and they differ", len(onFlink), len(here))
	}
}

// testFilesKilled: whatever is killed, every record has one result, and they are in order.
func testFilesKilled(t *testing.T, c *flinkenv.Cluster) {
	r := newRig(t, c, sidecartest.Script{Latency: 20 * time.Millisecond}, 40_000)
	p, id := r.submit(r.job(2, ", capacity: 20", "restart: {strategy: fixed-delay, attempts: 100, delay: 200ms}"))
	r.killEverything()
	if code := p.Wait(); code != 0 {
		t.Fatalf("it ended with %d", code)
	}
	r.inOrder()
	t.Logf("%d rows were called for %d records; %q", r.rows(), r.records, r.failures(id))
	if len(r.failures(id)) < 2 {
		t.Errorf("Flink knows of fewer than two failures")
	}
}

// testDeadLetters: the records that fail are dead letters, once each although a worker pool is
// killed, and the same ones with the same words as in the embedded runtime.
func testDeadLetters(t *testing.T, c *flinkenv.Cluster) {
	bad := 13.0
	r := newRig(t, c, sidecartest.Script{Latency: 20 * time.Millisecond, Faults: []mock.Fault{{Kind: mock.BadRow, Row: &bad}}}, 20_000)
	in, err := os.OpenFile(r.path("in.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = in.WriteString("no JSON\n")
	if err := errors.Join(err, in.Close()); err != nil {
		t.Fatal(err)
	}
	job := r.job(2, ", capacity: 20, on_error: {record: dead_letter}", "dead_letter: {file: {path: failed}}", "restart: {strategy: fixed-delay, attempts: 100, delay: 200ms}")
	p, id := r.submit(job)
	r.more(200)
	r.worker.Kill()
	r.startWorker()
	if code := p.Wait(); code != 0 {
		t.Fatalf("it ended with %d", code)
	}
	if len(r.failures(id)) == 0 {
		t.Errorf("Flink knows of no failure")
	}
	results, letters := r.parts(), r.letters()
	for _, dir := range []string{"out", "failed"} {
		if err := os.RemoveAll(r.path(dir)); err != nil {
			t.Fatal(err)
		}
	}
	r.embedded(job)
	if here := r.parts(); bytes.Count(here, []byte("\n")) != r.records-20 || !bytes.Equal(results, here) {
		t.Errorf("%d bytes of results on Flink, %d here, and they differ", len(results), len(here))
	}
	if here := r.letters(); len(here) != 21 || !slices.Equal(letters, here) {
		t.Errorf("the dead letters on Flink are\n%s\nand here\n%s", strings.Join(letters, "\n"), strings.Join(here, "\n"))
	}
}

// testPermanent: a permanent failure ends the job where there is no restart, and Flink's history
// tells why.
func testPermanent(t *testing.T, c *flinkenv.Cluster) {
	r := newRig(t, c, sidecartest.Script{}, 1000)
	job := r.job(1, "", "restart: {strategy: none}")
	text, err := os.ReadFile(job)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(job, bytes.Replace(text, []byte("model: model"), []byte("model: nobody"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	p, id := r.submit(job)
	if code := p.Wait(); code != 1 {
		t.Errorf("it ended with %d", code)
	}
	if s := c.Job(id).State; s != "FAILED" {
		t.Errorf("it is %s", s)
	}
	if out := p.Output(); !strings.Contains(out, `no model "nobody"`) || !strings.Contains(out, "reason MODEL_NOT_FOUND") {
		t.Errorf("the command does not say why: %s", out)
	}
	for _, e := range c.Exceptions(id) {
		f := flink.FailureIn(e.Stacktrace)
		if f == nil || f.Code != "NOT_FOUND" || f.Reason != "MODEL_NOT_FOUND" || f.Class != "permanent" || f.Model != "nobody" || f.Operator != "infer" {
			t.Errorf("%+v in %.2000s", f, e.Stacktrace)
		}
	}
	r.disconnected()
}

// testCancelled: a job that is cancelled leaves no connection, and goes on with --resume where its
// results end.
func testCancelled(t *testing.T, c *flinkenv.Cluster) {
	r := newRig(t, c, sidecartest.Script{Latency: 20 * time.Millisecond}, 40_000)
	p, id := r.submit(r.job(2, ", capacity: 20", "restart: {strategy: none}"), "--flink", c.REST())
	r.more(500)
	if n := r.sidecar.Status().Connections; n != 2 {
		t.Errorf("%d connections of 2 subtasks", n)
	}
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 143 {
		t.Errorf("it ended with %d: %s", code, p.Output())
	}
	c.Await(id, "CANCELED")
	r.disconnected()
	done := len(r.results())
	if done == 0 || done == r.records {
		t.Errorf("%d results of %d records at the time it was cancelled: what follows shows nothing", done, r.records)
	}
	before := r.rows()
	if p, _ = r.submit(r.path("job.yaml")); p.Wait() != 2 {
		t.Errorf("results of a job that was cancelled are not in the way of another: %s", p.Output())
	}
	p, _ = r.submit(r.path("job.yaml"), "--resume")
	if code := p.Wait(); code != 0 {
		t.Fatalf("it ended with %d", code)
	}
	r.inOrder()
	if again := r.rows() - before; again > r.records-done {
		t.Errorf("%d rows were called again, of %d records that had no result", again, r.records-done)
	}
}
