//go:build integration

package integration

import (
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/internal/flinkenv"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

func TestFlink(t *testing.T) {
	c := flinkenv.Start(t, flinkenv.Options{TaskManagers: 2, Slots: 4})
	t.Run("order", func(t *testing.T) {
		r := newRig(t, c, sidecartest.Script{Latency: 2 * time.Millisecond, Jitter: 5 * time.Millisecond}, 50_000)
		p, id := r.submit(r.job(2, "", "checkpoint: {interval: 300ms}"))
		if code := p.Wait(); code != 0 {
			t.Fatalf("it ended with %d", code)
		}
		r.inOrder()
		log := r.sidecar.Log()
		t.Log(len(log), "calls", log[0].Arrived.Format(time.TimeOnly), log[len(log)-1].Answered.Format(time.TimeOnly))
		cp := c.Checkpoints(id)
		t.Logf("%+v %+v", cp.Counts, cp.Latest.Failed)
		t.Log(p.Output())
	})
	t.Run("savepoint", func(t *testing.T) {
		r := newRig(t, c, sidecartest.Script{Latency: 20 * time.Millisecond}, 40_000)
		p, id := r.submit(r.job(2, ", capacity: 20", "checkpoint: {interval: 300ms}"))
		r.eventually("half of it", func() bool { return r.sidecar.Status().Calls > 200 })
		path, err := c.Stop(id, false)
		t.Log(path, err, len(r.results()))
		t.Logf("%+v", c.Checkpoints(id).Counts)
		t.Log(p.Wait(), p.Output())
		p, id = r.submit(r.path("job.yaml"), "--savepoint", path)
		if code := p.Wait(); code != 0 {
			t.Fatalf("it ended with %d", code)
		}
		r.inOrder()
		rows := 0
		for _, call := range r.sidecar.Log() {
			rows += call.Rows
		}
		t.Logf("%d rows", rows)
	})
}
