//go:build integration

package integration

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/internal/flinkenv"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

func TestFlink(t *testing.T) {
	c := flinkenv.Start(t, flinkenv.Options{TaskManagers: 2, Slots: 2, Settings: map[string]string{
		// What is killed is noticed soon.
		"heartbeat.interval": "500", "heartbeat.timeout": "3000",
	}})
	t.Run("files", func(t *testing.T) {
		r := newRig(t, c, sidecartest.Script{Latency: 2 * time.Millisecond, Jitter: 5 * time.Millisecond}, 50_000)
		p, _ := r.submit(r.job(2, ""))
		if code := p.Wait(); code != 0 {
			t.Fatalf("it ended with %d", code)
		}
		r.inOrder()
	})
	t.Run("killed", func(t *testing.T) {
		r := newRig(t, c, sidecartest.Script{Latency: 20 * time.Millisecond}, 30_000)
		p, id := r.submit(r.job(2, ", capacity: 20", "restart: {strategy: fixed-delay, attempts: 100, delay: 200ms}"))
		calls := func(n int64) { r.eventually("calls are made", func() bool { return r.sidecar.Status().Calls > n }) }
		calls(300)
		r.worker.Kill()
		r.startWorker()
		calls(r.sidecar.Status().Calls + 300)
		c.TaskManagers[0].Kill()
		calls(r.sidecar.Status().Calls + 300)
		c.RestartTaskManager(0)
		calls(r.sidecar.Status().Calls + 300)
		r.sidecar.Kill()
		time.Sleep(time.Second)
		if err := r.sidecar.Restart(); err != nil {
			t.Fatal(err)
		}
		if code := p.Wait(); code != 0 {
			t.Fatalf("it ended with %d", code)
		}
		r.inOrder()
		for _, e := range c.Exceptions(id) {
			t.Logf("%.200s", e.Stacktrace)
		}
		rows := 0
		for _, call := range r.sidecar.Log() {
			rows += call.Rows
		}
		t.Logf("%d rows", rows)
	})
	t.Run("permanent", func(t *testing.T) {
		r := newRig(t, c, sidecartest.Script{}, 1000)
		job := r.job(1, "", "restart: {strategy: none}")
		text, err := os.ReadFile(job)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(job, []byte(strings.Replace(string(text), "model: model", "model: nobody", 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		p, id := r.submit(job)
		if code := p.Wait(); code != 1 {
			t.Errorf("it ended with %d", code)
		}
		if s := c.Job(id).State; s != "FAILED" {
			t.Error(s)
		}
		t.Log(p.Output())
		ex := c.Exceptions(id)
		t.Logf("%.3000s", ex[0].Stacktrace)
		t.Log(flink.FailureIn(ex[0].Stacktrace))
	})
	t.Run("cancelled", func(t *testing.T) {
		r := newRig(t, c, sidecartest.Script{Latency: 20 * time.Millisecond}, 100_000)
		p, id := r.submit(r.job(2, ", capacity: 20", "restart: {strategy: none}"))
		r.eventually("calls are made", func() bool { return r.sidecar.Status().Calls > 100 })
		if n := r.sidecar.Status().Connections; n != 2 {
			t.Errorf("%d connections of 2 subtasks", n)
		}
		p.Signal(syscall.SIGTERM)
		if code := p.Wait(); code != 143 {
			t.Errorf("it ended with %d", code)
		}
		t.Log(c.Job(id).State)
		began := time.Now()
		r.eventually("no connection is left", func() bool { return r.sidecar.Status().Connections == 0 })
		t.Log(time.Since(began))
		// resumed
		p, _ = r.submit(r.path("job.yaml"), "--resume")
		t.Log(len(r.results()))
		if code := p.Wait(); code != 0 {
			t.Fatalf("it ended with %d", code)
		}
		r.inOrder()
	})
	_ = mock.Fault{}
}
