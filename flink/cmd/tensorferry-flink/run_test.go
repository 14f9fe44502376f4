package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
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
		"refused":      {jobserver.Script{Prepare: status.Error(codes.Internal, "no slots")}, "", exitFailed, "", "did not accept the job digits: rpc error: code = Internal desc = no slots\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := jobserver.Start(t, c.script)
			w := newWorld()
			code := program.Run(&w.World, append([]string{"run", jobFile(t), "--job-server", s.Address}, strings.Fields(c.flags)...))
			w.has(t, code, c.code, c.out, c.errs)
			o := s.Prepared().GetPipelineOptions().AsMap()
			if s.Prepared().GetJobName() != "digits" || o["beam:option:max_bundle_size:v1"] != 1. || o["beam:option:number_of_execution_retries:v1"] != 0. {
				t.Errorf("it was submitted as %v", o)
			}
		})
	}
}

// A job that reads topics is begun only by who says that its state may grow. One that goes on, and
// one that reads files, whatever it writes to, is not held up.
func TestRunWithTopics(t *testing.T) {
	const files, topic, folder = "{file: {path: in.jsonl}}", `{kafka: {brokers: "127.0.0.1:1", topic: in}}`, "{file: {path: out}}"
	const named = `{kafka: {topic: out, brokers: "127.0.0.1:1"}}`
	for name, c := range map[string]struct {
		source, sink, flags string
		refused             bool
	}{
		"topics":                   {topic, folder, "", true},
		"topics, detached":         {topic, folder, "--detach", true},
		"topics, to topics":        {`{kafka: {brokers: "127.0.0.1:1", topic: in, group: g}}`, "{kafka: {topic: out}}", "", true},
		"topics by a pattern":      {`{kafka: {brokers: "127.0.0.1:1", pattern: "in.*"}}`, folder, "", true},
		"topics, as if it went on": {topic, folder, "--resume", true},
		"topics, not accepted":     {topic, folder, "--accept-growing-state=false", true},
		"topics, accepted":         {topic, folder, "--accept-growing-state", false},
		"topics, from a savepoint": {topic, folder, "--savepoint /s", false},
		"files":                    {files, folder, "", false},
		"files to topics":          {files, named, "", false},
		"files to topics, resumed": {files, named, "--resume", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := jobserver.Start(t, jobserver.Script{})
			w := newWorld()
			file := jobFileOf(t, c.source, c.sink)
			code := program.Run(&w.World, append([]string{"run", file, "--job-server", s.Address}, strings.Fields(c.flags)...))
			if c.refused {
				w.has(t, code, exitUsage, "", "job.yaml:2:10: source.kafka: reading topics through Beam fills the TaskManager's heap")
				w.has(t, code, exitUsage, "", "or set --accept-growing-state\n")
				if _, err := os.Stat(filepath.Join(filepath.Dir(file), "out")); s.Prepared() != nil || err == nil {
					t.Errorf("it was refused and left something: submitted %v, folder %v", s.Prepared(), err)
				}
				return
			}
			if w.has(t, code, exitOK, "digits: ", "submitted"); s.Prepared() == nil {
				t.Error("nothing was submitted")
			}
			if said := strings.Contains(w.errs.String(), "fills the TaskManager's heap"); said != (c.source == topic) {
				t.Errorf("it says that the heap fills: %v\n%s", said, w.errs.String())
			}
		})
	}
}

// cluster plays Flink's REST interface for one job.
type cluster struct {
	*httptest.Server
	name string
	// since is from which question for the jobs on the job is among them.
	since int
	ends  func() // how a job ends that is stopped or cancelled
	// savepoint is the answer to the question for a stop's savepoint.
	savepoint string
	// instead, if set, answers the n-th question of a kind in place of what is usual: a status or a
	// text; empty: it does not.
	instead func(what string, n int) string

	mu    sync.Mutex
	asked []string
	once  sync.Once
}

func newCluster(t *testing.T, name string, ends chan struct{}) *cluster {
	t.Helper()
	c := &cluster{name: name}
	c.ends = func() { c.once.Do(func() { close(ends) }) }
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what, n := r.Method+" "+r.URL.RequestURI(), 0
	c.mu.Lock()
	c.asked = append(c.asked, what)
	for _, w := range c.asked {
		if w == what {
			n++
		}
	}
	c.mu.Unlock()
	if c.instead != nil {
		if said := c.instead(what, n); said != "" {
			if code, err := strconv.Atoi(said); err == nil {
				w.WriteHeader(code)
			} else {
				fmt.Fprint(w, said)
			}
			return
		}
	}
	switch what {
	case "GET /jobs/overview":
		// One of the same name has been there for long, by a clock that is ahead.
		others := fmt.Sprintf(`{"jid":"old","name":%q,"state":"RUNNING","start-time":%d,"end-time":-1}`, c.name, time.Now().Add(time.Hour).UnixMilli())
		if n < c.since {
			fmt.Fprintf(w, `{"jobs":[%s]}`, others)
			return
		}
		// The clock of this one is behind.
		fmt.Fprintf(w, `{"jobs":[%s,{"jid":"j","name":%q,"state":"RUNNING","start-time":1,"end-time":-1}]}`, others, c.name)
	case "PATCH /jobs/j?mode=cancel":
		fmt.Fprint(w, "{}")
		c.ends()
	case "POST /jobs/j/stop":
		fmt.Fprint(w, `{"request-id":"r"}`)
	case "GET /jobs/j/savepoints/r":
		fmt.Fprint(w, c.savepoint)
		if !strings.Contains(c.savepoint, "failure") {
			c.ends()
		}
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
		script := jobserver.Script{Ends: make(chan struct{}), End: jobpb.JobState_FAILED}
		s, c := jobserver.Start(t, script), newCluster(t, "digits", script.Ends)
		c.since = 2
		w := newWorld()
		w.signalWhen("msg=submitted", sig)
		got := program.Run(&w.World, []string{"run", jobFile(t), "--job-server", s.Address, "--flink", c.URL})
		w.has(t, got, code, "", "digits: cancelled; continue with --resume\n")
		if c.questions() != "GET /jobs/overview; GET /jobs/overview; PATCH /jobs/j?mode=cancel" {
			t.Errorf("asked %s", c.questions())
		}
	}
}

// A job that is done before it is cancelled is done.
func TestSignalTooLate(t *testing.T) {
	script := jobserver.Script{Ends: make(chan struct{}), Started: make(chan struct{})}
	s, c := jobserver.Start(t, script), newCluster(t, "digits", script.Ends)
	c.since = 2
	w := newWorld()
	w.signalWhen("msg=submitted", os.Interrupt)
	code := program.Run(&w.World, []string{"run", jobFile(t), "--job-server", s.Address, "--flink", c.URL})
	w.has(t, code, exitOK, "digits: finished in ", "cancelling")
}

// A signal while the job server does not answer ends the command, and not after as long as an
// answer is waited for.
func TestSignalWhileSubmitting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // connections wait to be accepted
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := newWorld()
	w.signalWhen("msg=submitting", syscall.SIGTERM)
	code := program.Run(&w.World, []string{"run", jobFile(t), "--job-server", l.Addr().String()})
	w.has(t, code, 143, "", "digits: ended while it was being submitted; Flink's web UI shows whether it runs\n")
}

func TestSignalWithoutFlink(t *testing.T) {
	script := jobserver.Script{Ends: make(chan struct{})}
	s := jobserver.Start(t, script)
	w := newWorld()
	w.signalWhen("msg=submitted", os.Interrupt)
	code := program.Run(&w.World, []string{"run", jobFile(t), "--job-server", s.Address})
	w.has(t, code, 130, "", "digits: the job continues; end it in Flink's web UI")
}

// Some seconds pass from when the job server has taken a job to when Flink has it.
func TestSignalBeforeFlinkHasTheJob(t *testing.T) {
	script := jobserver.Script{Ends: make(chan struct{}), End: jobpb.JobState_FAILED}
	s, c := jobserver.Start(t, script), newCluster(t, "digits", script.Ends)
	c.since = 5
	c.instead = func(what string, n int) string {
		switch {
		case what != "GET /jobs/overview":
		case n == 4:
			return "503"
		}
		return ""
	}
	w := newWorld()
	w.signalWhen("msg=submitted", os.Interrupt)
	code := program.Run(&w.World, []string{"run", jobFile(t), "--job-server", s.Address, "--flink", c.URL})
	w.has(t, code, 130, "", "digits: cancelled; continue with --resume\n")
	w.has(t, code, 130, "", `the job cannot be ended yet; trying again" error="no job`)
}

// TestAnotherOfTheName: which job is meant is known as soon as Flink has it, so another of the same
// name that comes later is left alone. Of two that came at once neither is ended.
func TestAnotherOfTheName(t *testing.T) {
	const two = `{"jobs":[{"jid":"j","name":"digits","state":"RUNNING","start-time":1,"end-time":-1},` +
		`{"jid":"later","name":"digits","state":"RUNNING","start-time":2,"end-time":-1}]}`
	for name, c := range map[string]struct {
		from int // which question for the jobs is answered with both
		code int
		want string
	}{
		"later":   {2, 130, "digits: cancelled; continue with --resume\n"},
		"at once": {1, exitFailed, `several jobs "digits" were submitted`},
	} {
		t.Run(name, func(t *testing.T) {
			script := jobserver.Script{Ends: make(chan struct{}), End: jobpb.JobState_FAILED}
			f := newCluster(t, "digits", script.Ends)
			w, e, j := endingOf(t, script, f)
			e.spec.Source.File = &job.FileSource{}
			asked := make(chan struct{}, 1)
			f.instead = func(what string, n int) string {
				if what != "GET /jobs/overview" {
					return ""
				}
				if n == 1 {
					asked <- struct{}{}
				}
				if n >= c.from {
					return two
				}
				return ""
			}
			if c.code == exitFailed {
				e.patience = time.Nanosecond
			}
			go func() {
				<-asked
				w.signals <- os.Interrupt
			}()
			w.has(t, e.wait(t.Context(), j, nil), c.code, "", c.want)
			if strings.Contains(f.questions(), "later") || (c.code == exitFailed) == strings.Contains(f.questions(), "PATCH") {
				t.Errorf("asked %s", f.questions())
			}
		})
	}
}

// TestNothingIsSubmittedWithoutFlink: an address that does not answer is not found out when a
// signal is to end the job.
func TestNothingIsSubmittedWithoutFlink(t *testing.T) {
	s := jobserver.Start(t, jobserver.Script{})
	c := newCluster(t, "digits", nil)
	c.Close()
	w := newWorld()
	code := program.Run(&w.World, []string{"run", jobFile(t), "--job-server", s.Address, "--flink", c.URL})
	w.has(t, code, exitFailed, "", "nothing was submitted: submit: Flink at "+c.URL)
}

// ending is one of a submitted job that has no end by itself.
func endingOf(t *testing.T, script jobserver.Script, c *cluster) (*surroundings, *ending, *submit.Job) {
	t.Helper()
	s := jobserver.Start(t, script)
	p, scope := beam.NewPipelineWithRoot()
	beam.Create(scope, 1)
	j, err := submit.Submit(t.Context(), p, submit.Options{JobServer: s.Address, WorkerPool: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	w := newWorld()
	return w, &ending{
		w: &w.World, spec: &job.Spec{Name: "digits"}, cluster: submit.Cluster{Address: c.URL}, began: time.Now(), patience: time.Hour, before: []string{"old"},
		log: slog.New(slog.NewTextHandler(&w.errs, nil)),
	}, j
}

func TestSignalFindsNothing(t *testing.T) {
	for _, flink := range []bool{true, false} {
		script := jobserver.Script{Ends: make(chan struct{})}
		c := newCluster(t, "letters", script.Ends)
		w, e, j := endingOf(t, script, c)
		e.patience = time.Nanosecond
		want := `the job may still run: no job "digits" runs on Flink at ` + c.URL
		if !flink {
			c.Close()
			want = "the job may still run: submit: Flink at " + c.URL
		}
		w.signals <- os.Interrupt
		w.has(t, e.wait(t.Context(), j, nil), exitFailed, "", want)
	}
}

// Jobs without an end are stopped with a savepoint.
func TestStop(t *testing.T) {
	const waits = `{"status":{"id":"IN_PROGRESS"}}`
	const taken = `{"status":{"id":"COMPLETED"},"operation":{"location":"file:/sp/1"}}`
	const failed = `{"status":{"id":"COMPLETED"},"operation":{"failure-cause":{"stack-trace":"x.E: failure: no folder"}}}`
	const lost = "digits: stopped; Flink's web UI shows the path of its savepoint\n"
	const overview, stop, at = "GET /jobs/overview", "POST /jobs/j/stop", "GET /jobs/j/savepoints/r"
	for name, c := range map[string]struct {
		savepoint string
		end       jobpb.JobState_Enum
		instead   func(w *surroundings, c *cluster, what string, n int) string
		// then is what happens when the stop has failed, or nobody knows.
		then      func(w *surroundings, c *cluster)
		code      int
		out, errs string
	}{
		"taken":     {taken, jobpb.JobState_DONE, nil, nil, 143, "", "digits: stopped; continue with --savepoint file:/sp/1\n"},
		"lost":      {waits, jobpb.JobState_DONE, nil, nil, 143, "", lost},
		"finished":  {failed, jobpb.JobState_DONE, nil, func(_ *surroundings, c *cluster) { c.ends() }, exitOK, "digits: finished in ", "no folder"},
		"cancelled": {failed, jobpb.JobState_FAILED, nil, func(w *surroundings, _ *cluster) { w.signals <- os.Interrupt }, 143, "", "digits: cancelled; continue with --savepoint and a retained checkpoint\n"},
		"failed":    {failed, jobpb.JobState_FAILED, nil, func(_ *surroundings, c *cluster) { c.ends() }, exitFailed, "", "tensorferry-flink run: the job job-1 failed"},
		"refused": {waits, jobpb.JobState_DONE, func(_ *surroundings, _ *cluster, what string, _ int) string {
			if what == stop {
				return "500"
			}
			return ""
		}, func(_ *surroundings, c *cluster) { c.ends() }, exitOK, "digits: finished in ", "could not be stopped"},
		// A question that fails says nothing of the savepoint.
		"asked again": {taken, jobpb.JobState_DONE, func(_ *surroundings, c *cluster, what string, n int) string {
			if what == at && n == 1 {
				c.ends()
				return "503"
			}
			return ""
		}, nil, 143, "", "digits: stopped; continue with --savepoint file:/sp/1\n"},
		"forgotten": {taken, jobpb.JobState_DONE, func(_ *surroundings, _ *cluster, what string, _ int) string {
			if what == at {
				return "404"
			}
			return ""
		}, func(_ *surroundings, c *cluster) { c.ends() }, 143, "", lost},
		"forgotten, then failed": {taken, jobpb.JobState_FAILED, func(_ *surroundings, _ *cluster, what string, _ int) string {
			if what == at {
				return "404"
			}
			return ""
		}, func(_ *surroundings, c *cluster) { c.ends() }, exitFailed, "", "tensorferry-flink run: the job job-1 failed"},
		// A second signal when the job has just ended, and its savepoint's path is on its way.
		// Flink is asked to cancel what has ended.
		"cancelled too late": {taken, jobpb.JobState_DONE, func(w *surroundings, c *cluster, what string, n int) string {
			switch {
			case what == at && n == 1:
				w.signals <- syscall.SIGTERM
				return waits
			case what == at && !strings.Contains(c.questions(), "PATCH"):
				return waits
			case strings.HasPrefix(what, "PATCH"):
				c.ends()
				return "404"
			}
			return ""
		}, nil, 143, "", "digits: stopped; continue with --savepoint file:/sp/1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			script := jobserver.Script{Ends: make(chan struct{}), End: c.end}
			f := newCluster(t, "digits", script.Ends)
			f.savepoint = c.savepoint
			w, e, j := endingOf(t, script, f)
			if c.instead != nil {
				f.instead = func(what string, n int) string { return c.instead(w, f, what, n) }
			}
			// The log says when the stop has failed.
			e.log = slog.New(slog.NewTextHandler(io.MultiWriter(&w.errs, writer(func(line string) {
				if c.then != nil && (strings.Contains(line, "could not be stopped") || strings.Contains(line, "is not known")) {
					go c.then(w, f)
				}
			})), nil))
			if name == "lost" {
				e.patience = time.Nanosecond // what is known is waited for
			}
			w.signals <- syscall.SIGTERM
			w.has(t, e.wait(t.Context(), j, nil), c.code, c.out, c.errs)
			if !strings.HasPrefix(f.questions(), overview+"; "+stop) {
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
