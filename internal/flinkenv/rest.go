//go:build integration

package flinkenv

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

// client keeps no connections, which a test would find as leaked goroutines.
var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// call sends a request to Flink's REST interface. answer may be nil.
func (c *Cluster) call(method, path string, body, answer any) error {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, "http://"+c.REST()+path, in)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("%s %s: %w: %s", method, path, err, text)
	}
	return nil
}

// must is call, and fails the test after an error.
func (c *Cluster) must(method, path string, body, answer any) {
	c.t.Helper()
	if err := c.call(method, path, body, answer); err != nil {
		c.t.Fatal(err)
	}
}

// Overview lists what the cluster has.
type Overview struct {
	TaskManagers int    `json:"taskmanagers"`
	Slots        int    `json:"slots-total"`
	FreeSlots    int    `json:"slots-available"`
	Running      int    `json:"jobs-running"`
	Version      string `json:"flink-version"`
}

func (c *Cluster) overview() (o Overview, err error) {
	return o, c.call("GET", "/overview", nil, &o)
}

// Overview returns what the cluster has.
func (c *Cluster) Overview() Overview {
	c.t.Helper()
	o, err := c.overview()
	if err != nil {
		c.t.Fatal(err)
	}
	return o
}

// TaskManager is a TaskManager as the JobManager knows it.
type TaskManager struct {
	ID        string `json:"id"`
	Slots     int    `json:"slotsNumber"`
	FreeSlots int    `json:"freeSlots"`
}

// Registered lists the TaskManagers that the JobManager knows.
func (c *Cluster) Registered() []TaskManager {
	c.t.Helper()
	var a struct{ Taskmanagers []TaskManager }
	c.must("GET", "/taskmanagers", nil, &a)
	return a.Taskmanagers
}

// Job is a job with its state, in Flink's words: RUNNING, RESTARTING, FINISHED, FAILED, CANCELED,
// SUSPENDED and those between.
type Job struct {
	ID       string   `json:"jid"`
	Name     string   `json:"name"`
	State    string   `json:"state"`
	Start    int64    `json:"start-time"` // in milliseconds of Unix time
	Millis   int64    `json:"duration"`
	Vertices []Vertex `json:"vertices"`
}

// Vertex is a chain of operators.
type Vertex struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Parallelism int    `json:"parallelism"`
	// Tasks counts its subtasks by their states, which are those of jobs and a few more.
	Tasks   map[string]int `json:"tasks"`
	Metrics struct {
		ReadRecords  int64 `json:"read-records"`
		WriteRecords int64 `json:"write-records"`
	} `json:"metrics"`
}

// Jobs lists the jobs that the cluster runs and remembers, without their vertices, the oldest
// first.
func (c *Cluster) Jobs() []Job {
	c.t.Helper()
	var a struct{ Jobs []Job }
	c.must("GET", "/jobs/overview", nil, &a)
	slices.SortFunc(a.Jobs, func(x, y Job) int { return cmp.Compare(x.Start, y.Start) })
	return a.Jobs
}

// Job returns a job.
func (c *Cluster) Job(id string) Job {
	c.t.Helper()
	var j Job
	c.must("GET", "/jobs/"+id, nil, &j)
	return j
}

// Await returns a job when it is in one of the states. The test fails if it ends in another.
func (c *Cluster) Await(id string, states ...string) (j Job) {
	c.t.Helper()
	c.JobManager.Eventually(fmt.Sprintf("job %s is %v", id, states), func() bool {
		j = c.Job(id)
		if slices.Contains(states, j.State) {
			return true
		}
		if slices.Contains([]string{"FINISHED", "FAILED", "CANCELED"}, j.State) {
			c.t.Fatalf("job %s is %s, not %v: %v", id, j.State, states, c.Exceptions(id))
		}
		return false
	})
	return j
}

// AwaitTasks returns a job when it runs, and all of its subtasks run or have ended. Only then can
// Flink take a savepoint: it reports jobs as RUNNING that are still starting.
func (c *Cluster) AwaitTasks(id string) (j Job) {
	c.t.Helper()
	c.JobManager.Eventually("all tasks of job "+id+" run", func() bool {
		j = c.Await(id, "RUNNING")
		return !slices.ContainsFunc(j.Vertices, func(v Vertex) bool { return v.Tasks["RUNNING"]+v.Tasks["FINISHED"] < v.Parallelism })
	})
	return j
}

// Exception is a failure that restarted or ended a job.
type Exception struct {
	Name       string `json:"exceptionName"`
	Stacktrace string `json:"stacktrace"`
	Task       string `json:"taskName"`
	Timestamp  int64  `json:"timestamp"`
}

// Exceptions lists a job's failures, the newest first.
func (c *Cluster) Exceptions(id string) []Exception {
	c.t.Helper()
	var a struct {
		History struct{ Entries []Exception } `json:"exceptionHistory"`
	}
	c.must("GET", "/jobs/"+id+"/exceptions", nil, &a)
	return a.History.Entries
}

// Checkpoints are a job's checkpoints, including savepoints.
type Checkpoints struct {
	Counts struct {
		Completed  int `json:"completed"`
		Failed     int `json:"failed"`
		InProgress int `json:"in_progress"`
		Restored   int `json:"restored"`
	} `json:"counts"`
	Latest struct {
		Completed *Checkpoint `json:"completed"`
		Failed    *Checkpoint `json:"failed"`
		Savepoint *Checkpoint `json:"savepoint"`
	} `json:"latest"`
	History []Checkpoint `json:"history"` // the newest first
}

// Checkpoint is one checkpoint.
type Checkpoint struct {
	ID      int64  `json:"id"`
	Status  string `json:"status"`
	Path    string `json:"external_path"`
	Failure string `json:"failure_message"`
	Size    int64  `json:"state_size"`
	Millis  int64  `json:"end_to_end_duration"`
}

// Checkpoints returns the state of a job's checkpoints.
func (c *Cluster) Checkpoints(id string) (all Checkpoints) {
	c.t.Helper()
	c.must("GET", "/jobs/"+id+"/checkpoints", nil, &all)
	return all
}

// Metrics returns metrics of a vertex, summed over its subtasks, by names such as numRecordsIn.
func (c *Cluster) Metrics(job, vertex string, names ...string) map[string]float64 {
	c.t.Helper()
	all := map[string]float64{}
	for _, name := range names {
		var a []struct {
			ID  string `json:"id"`
			Sum any    `json:"sum"` // "NaN" as long as a subtask has no value
		}
		c.must("GET", fmt.Sprintf("/jobs/%s/vertices/%s/subtasks/metrics?get=%s&agg=sum", job, vertex, name), nil, &a)
		for _, m := range a {
			if sum, ok := m.Sum.(float64); ok {
				all[m.ID] = sum
			}
		}
	}
	return all
}

// Cancel cancels a job and returns when it is cancelled.
func (c *Cluster) Cancel(id string) {
	c.t.Helper()
	c.must("PATCH", "/jobs/"+id+"?mode=cancel", nil, nil)
	c.Await(id, "CANCELED")
}

// Savepoint takes a savepoint and returns its path. The job continues.
func (c *Cluster) Savepoint(id string) string {
	c.t.Helper()
	path, err := c.savepoint(id, "savepoints", map[string]any{"target-directory": "file://" + c.SavepointDir()})
	if err != nil {
		c.t.Fatal(err)
	}
	return path
}

// Stop stops a job with a savepoint and returns its path. With drain the sources send the last
// watermark first.
func (c *Cluster) Stop(id string, drain bool) (string, error) {
	c.t.Helper()
	return c.savepoint(id, "stop", map[string]any{"targetDirectory": "file://" + c.SavepointDir(), "drain": drain})
}

func (c *Cluster) savepoint(id, how string, body any) (path string, err error) {
	c.t.Helper()
	var trigger struct {
		Request string `json:"request-id"`
	}
	c.must("POST", "/jobs/"+id+"/"+how, body, &trigger)
	c.JobManager.Eventually("the savepoint is done", func() bool {
		var a struct {
			Status    struct{ ID string }
			Operation struct {
				Location string          `json:"location"`
				Cause    json.RawMessage `json:"failure-cause"`
			}
		}
		c.must("GET", "/jobs/"+id+"/savepoints/"+trigger.Request, nil, &a)
		path = a.Operation.Location
		if len(a.Operation.Cause) > 0 {
			err = fmt.Errorf("the savepoint of %s failed: %s", id, a.Operation.Cause)
		}
		return a.Status.ID == "COMPLETED"
	})
	return path, err
}
