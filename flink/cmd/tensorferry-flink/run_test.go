package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/flink/internal/jobserver"
	"github.com/tensorferry/tensorferry/flink/submit"
	"github.com/tensorferry/tensorferry/job"
)

func TestRun(t *testing.T) {
	failure := `java.lang.RuntimeException: Error received from SDK harness: tensorferry {"operator":"infer","class":"permanent","code":"NOT_FOUND",` +
		`"reason":"MODEL_NOT_FOUND","split":-1,"position":-1,"message":"no such model"}` + "\n\tat x.y(Z.java:1)"
	for name, c := range map[string]struct {
		script    jobserver.Script
		flags     string
		code      int
		out, errs string
	}{
		"done":         {jobserver.Script{}, "", exitOK, "digits: finished in ", "submitted"},
		"detached":     {jobserver.Script{End: jobpb.JobState_FAILED}, "--detach", exitOK, "job-1\n", "submitted"},
		"json":         {jobserver.Script{}, "--log-format json", exitOK, "digits: finished in ", `"msg":"submitted"`},
		"failed":       {jobserver.Script{End: jobpb.JobState_FAILED, Messages: []string{"java.lang.E: x"}}, "", exitFailed, "", "tensorferry-flink run: the job job-1 failed: java.lang.E: x\n"},
		"with failure": {jobserver.Script{End: jobpb.JobState_FAILED, Messages: []string{failure}}, "", exitFailed, "", "tensorferry-flink run: digits failed: no such model (class permanent, code NOT_FOUND, reason MODEL_NOT_FOUND)\n"},
		"cancelled":    {jobserver.Script{End: jobpb.JobState_CANCELLED}, "", exitFailed, "", "tensorferry-flink run: digits was cancelled\n"},
		"refused":      {jobserver.Script{Prepare: status.Error(codes.Internal, "no slots")}, "", exitFailed, "", "did not take the job digits: rpc error: code = Internal desc = no slots\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := jobserver.Start(t, c.script)
			w := newWorld()
			code := dispatch(&w.world, append([]string{"run", jobFile(t), "--job-server", s.Address}, strings.Fields(c.flags)...))
			w.has(t, code, c.code, c.out, c.errs)
			o := s.Prepared().GetPipelineOptions().AsMap()
			if s.Prepared().GetJobName() != "digits" || o["beam:option:max_bundle_size:v1"] != 1. || o["beam:option:number_of_execution_retries:v1"] != 0. {
				t.Errorf("it was submitted as %v", o)
			}
		})
	}
}

// cluster plays Flink's REST interface for one job.
type cluster struct {
	*httptest.Server
	name string
	ends func() // how a job ends that is stopped or cancelled

	mu        sync.Mutex
	asked     []string
	stop      string // the answer to a stop
	savepoint string // that to the question for its savepoint; it may be "wait"
	once      sync.Once
}

func newCluster(t *testing.T, name string, ends chan struct{}) *cluster {
	t.Helper()
	c := &cluster{name: name, stop: `{"request-id":"r"}`}
	c.ends = func() { c.once.Do(func() { close(ends) }) }
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.asked = append(c.asked, r.Method+" "+r.URL.RequestURI())
	savepoint := c.savepoint
	c.mu.Unlock()
	switch r.Method + " " + r.URL.RequestURI() {
	case "GET /jobs/overview":
		fmt.Fprintf(w, `{"jobs":[{"jid":"j","name":%q,"state":"RUNNING","start-time":%d,"end-time":-1}]}`, c.name, time.Now().UnixMilli())
	case "PATCH /jobs/j?mode=cancel":
		fmt.Fprint(w, "{}")
		c.ends()
	case "POST /jobs/j/stop":
		fmt.Fprint(w, c.stop)
		if !strings.Contains(savepoint, "failure") {
			c.ends()
		}
	case "GET /jobs/j/savepoints/r":
		fmt.Fprint(w, savepoint)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (c *cluster) questions() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.asked, "; ")
}

func TestSignalCancels(t *testing.T) {
	for sig, code := range map[os.Signal]int{os.Interrupt: 130, syscall.SIGTERM: 143} {
		script := jobserver.Script{Ends: make(chan struct{}), Started: make(chan struct{}), End: jobpb.JobState_FAILED}
		s, c := jobserver.Start(t, script), newCluster(t, "digits", script.Ends)
		w := newWorld()
		go func() {
			<-script.Started
			w.signals <- sig
		}()
		got := dispatch(&w.world, []string{"run", jobFile(t), "--job-server", s.Address, "--flink", c.URL})
		w.has(t, got, code, "", "digits: cancelled; go on with --resume\n")
		if c.questions() != "GET /jobs/overview; PATCH /jobs/j?mode=cancel" {
			t.Errorf("asked %s", c.questions())
		}
	}
}

// A job that is done before it is cancelled is done.
func TestSignalTooLate(t *testing.T) {
	script := jobserver.Script{Ends: make(chan struct{}), Started: make(chan struct{})}
	s, c := jobserver.Start(t, script), newCluster(t, "digits", script.Ends)
	w := newWorld()
	w.signals <- os.Interrupt
	code := dispatch(&w.world, []string{"run", jobFile(t), "--job-server", s.Address, "--flink", c.URL})
	w.has(t, code, exitOK, "digits: finished in ", "cancelling")
}

func TestSignalWithoutFlink(t *testing.T) {
	script := jobserver.Script{Ends: make(chan struct{})}
	s := jobserver.Start(t, script)
	w := newWorld()
	w.signals <- os.Interrupt
	code := dispatch(&w.world, []string{"run", jobFile(t), "--job-server", s.Address})
	w.has(t, code, 130, "", "digits: the job goes on; end it in Flink's web UI")
}

func TestSignalFindsNothing(t *testing.T) {
	script := jobserver.Script{Ends: make(chan struct{})}
	s, c := jobserver.Start(t, script), newCluster(t, "letters", script.Ends)
	w := newWorld()
	w.signals <- os.Interrupt
	code := dispatch(&w.world, []string{"run", jobFile(t), "--job-server", s.Address, "--flink", c.URL})
	w.has(t, code, exitFailed, "", `the job may go on: no job "digits" runs on Flink at `+c.URL)

	c.Close() // nor is there a Flink
	w = newWorld()
	w.signals <- os.Interrupt
	code = dispatch(&w.world, []string{"run", jobFile(t), "--job-server", s.Address, "--flink", c.URL})
	w.has(t, code, exitFailed, "", "the job may go on: submit: Flink at "+c.URL)
}

// Jobs without an end are stopped with a savepoint.
func TestStop(t *testing.T) {
	const waits = `{"status":{"id":"IN_PROGRESS"}}`
	const taken = `{"status":{"id":"COMPLETED"},"operation":{"location":"file:/sp/1"}}`
	const failed = `{"status":{"id":"COMPLETED"},"operation":{"failure-cause":{"stack-trace":"x.E: failure: no folder"}}}`
	for name, c := range map[string]struct {
		savepoint string
		end       jobpb.JobState_Enum
		// then is what happens when the savepoint has failed.
		then      func(w *surroundings, c *cluster)
		code      int
		out, errs string
	}{
		"taken":     {taken, jobpb.JobState_DONE, nil, 143, "", "digits: stopped; go on with --savepoint file:/sp/1\n"},
		"lost":      {waits, jobpb.JobState_DONE, nil, 143, "", "digits: stopped; Flink's web UI says where its savepoint is\n"},
		"finished":  {failed, jobpb.JobState_DONE, func(_ *surroundings, c *cluster) { c.ends() }, exitOK, "digits: finished in ", "no folder"},
		"cancelled": {failed, jobpb.JobState_FAILED, func(w *surroundings, _ *cluster) { w.signals <- os.Interrupt }, 143, "", "digits: cancelled; go on with --savepoint and a checkpoint that was kept\n"},
		"failed":    {failed, jobpb.JobState_FAILED, func(_ *surroundings, c *cluster) { c.ends() }, exitFailed, "", "tensorferry-flink run: the job job-1 failed"},
	} {
		t.Run(name, func(t *testing.T) {
			script := jobserver.Script{Ends: make(chan struct{}), End: c.end}
			s, f := jobserver.Start(t, script), newCluster(t, "digits", script.Ends)
			f.savepoint = c.savepoint
			p, scope := beam.NewPipelineWithRoot()
			beam.Create(scope, 1)
			j, err := submit.Submit(t.Context(), p, submit.Options{JobServer: s.Address, WorkerPool: "127.0.0.1:1"})
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			w := newWorld()
			e := &ending{w: &w.world, spec: &job.Spec{Name: "digits"}, cluster: submit.Cluster{Address: f.URL}, began: time.Now(), patience: 50 * time.Millisecond}
			// The log says when the savepoint has failed.
			e.log = slog.New(slog.NewTextHandler(io.MultiWriter(&w.errs, writer(func(line string) {
				if strings.Contains(line, "could not be stopped") && c.then != nil {
					go c.then(w, f)
				}
			})), nil))
			w.signals <- syscall.SIGTERM
			if c.savepoint != waits {
				e.patience = time.Hour // what is known is not waited for
			}
			w.has(t, e.wait(t.Context(), j), c.code, c.out, c.errs)
			if !strings.HasPrefix(f.questions(), "GET /jobs/overview; POST /jobs/j/stop; GET /jobs/j/savepoints/r") {
				t.Errorf("asked %s", f.questions())
			}
		})
	}
}

// writer is told of each line.
type writer func(string)

func (w writer) Write(b []byte) (int, error) {
	w(string(b))
	return len(b), nil
}
