package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/local"
	"github.com/tensorferry/tensorferry/stream"
)

// TestSummary: totals are of the whole run, with this process's part. The rate is this process's.
func TestSummary(t *testing.T) {
	spec, err := job.Parse("job.yaml", "/jobs", []byte("name: a\nsource: {file: {path: in}}\ninfer: {model: m, endpoint: 'h:1'}\nsink: {file: {path: out}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{spec: spec, job: &local.Job{}}
	for _, c := range []struct {
		took time.Duration
		p    stream.Progress
		want string
	}{
		{2 * time.Second, stream.Progress{Totals: stream.Totals{Read: 1000, Completed: 1000, Emitted: 1000}, Committed: 1000, CheckpointsCompleted: 3},
			`a: finished in 2.0s: 1,000 records read, 1,000 results in /jobs/out
  500/s   checkpoints 3, failed 0   restarts 0
`},
		{2 * time.Second, stream.Progress{Totals: stream.Totals{Read: 1000, Completed: 990, Dropped: 10, Emitted: 990}, Committed: 990, Restarts: 1,
			Before: stream.Totals{Read: 960, Completed: 955, Dropped: 5, Emitted: 955}},
			`a: finished in 2.0s: 1,000 records read, 990 results in /jobs/out
  since the run was resumed: 40 records, 35 results
  10 records failed and were dropped
  20/s   checkpoints 0, failed 0   restarts 1
`},
		{4 * time.Second, stream.Progress{Totals: stream.Totals{Read: 1}}, "a: finished in 4.0s: 1 records read, 0 results in /jobs/out\n  0/s   checkpoints 0, failed 0   restarts 0\n"},
		{4 * time.Second, stream.Progress{Totals: stream.Totals{Read: 1, Completed: 1}}, "a: finished in 4.0s: 1 records read, 0 results in /jobs/out\n  0.25/s   checkpoints 0, failed 0   restarts 0\n"},
		{0, stream.Progress{}, "a: finished in 0.0s: 0 records read, 0 results in /jobs/out\n  -   checkpoints 0, failed 0   restarts 0\n"},
	} {
		var out bytes.Buffer
		if r.summary(&out, "finished", c.took, &c.p); out.String() != c.want {
			t.Errorf("%+v:\n%s\nwant\n%s", c.p, &out, c.want)
		}
	}
}
