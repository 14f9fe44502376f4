package submit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tensorferry/tensorferry/internal/brief"
)

// Cluster is Flink's own REST interface, for what Beam's job server does not do. The job server's
// Cancel, for example, leaves the job running.
type Cluster struct {
	// Address is the REST interface's host:port or URL.
	Address string

	transport http.RoundTripper // nil: http.DefaultTransport
}

// restTimeout bounds one request. It is also how long requests may fail before the caller gives up.
const restTimeout = 30 * time.Second

// statusError is an answer of Flink that reports an error.
type statusError struct {
	code int
	text string // the status and the beginning of the body
}

func (e *statusError) Error() string { return e.text }

// call sends a request to Flink. answer may be nil.
func (c Cluster) call(ctx context.Context, method, path string, body, answer any) error {
	base := c.Address
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, restTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(base, "/")+path, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("submit: Flink at %s: %w", c.Address, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true // requests are rare
	resp, err := (&http.Client{Transport: c.transport}).Do(req)
	if err != nil {
		return fmt.Errorf("submit: Flink at %s: %w", c.Address, err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err == nil && resp.StatusCode >= 300 {
		err = &statusError{resp.StatusCode, fmt.Sprintf("%s: %.500s", resp.Status, said)}
	}
	if err == nil && answer != nil {
		err = json.Unmarshal(said, answer)
	}
	if err != nil {
		return fmt.Errorf("submit: Flink at %s: %s %s: %w", c.Address, method, path, err)
	}
	return nil
}

// Jobs returns Flink's ids of all jobs with the name, including those that have ended.
func (c Cluster) Jobs(ctx context.Context, name string) ([]string, error) {
	return c.jobs(ctx, name, func(overview) bool { return true })
}

// Find returns Flink's id of the job with the name that has not ended and is not among before. Call
// Jobs before the submission, and pass its result as before. Clocks do not matter. The id is empty
// if there is no such job. Several are an error, because nothing shows which of them is meant: the
// others were submitted by other programs.
func (c Cluster) Find(ctx context.Context, name string, before []string) (id string, err error) {
	ids, err := c.jobs(ctx, name, func(j overview) bool { return j.End <= 0 && !slices.Contains(before, j.ID) })
	switch {
	case err != nil || len(ids) == 0:
		return "", err
	case len(ids) > 1:
		return "", fmt.Errorf("submit: several jobs %q were submitted to Flink at %s at the same time (%s); end the right one in Flink's web UI",
			name, c.Address, strings.Join(ids, ", "))
	}
	return ids[0], nil
}

// overview is Flink's description of a job.
type overview struct {
	ID   string `json:"jid"`
	Name string `json:"name"`
	End  int64  `json:"end-time"` // 0 or less if it has not ended
}

func (c Cluster) jobs(ctx context.Context, name string, want func(overview) bool) (ids []string, err error) {
	var all struct {
		Jobs []overview `json:"jobs"`
	}
	if err := c.call(ctx, "GET", "/jobs/overview", nil, &all); err != nil {
		return nil, err
	}
	for _, j := range all.Jobs {
		if j.Name == name && want(j) {
			ids = append(ids, j.ID)
		}
	}
	return ids, nil
}

// Cancel cancels a job. The job ends some time after Cancel returns.
func (c Cluster) Cancel(ctx context.Context, id string) error {
	return c.call(ctx, "PATCH", "/jobs/"+id+"?mode=cancel", nil, nil)
}

// ErrStopUnknown says that Flink was asked to stop a job, and that the outcome is not known. The
// job may have stopped, with a savepoint, or may go on.
var ErrStopUnknown = errors.New("submit: the outcome of the stop is not known")

// Stop stops a job with a savepoint in the cluster's folder for savepoints, and returns the
// savepoint's path when it is complete. An error other than ErrStopUnknown says that the job goes
// on, or ended by itself.
func (c Cluster) Stop(ctx context.Context, id string) (savepoint string, err error) {
	var trigger struct {
		Request string `json:"request-id"`
	}
	if err := c.call(ctx, "POST", "/jobs/"+id+"/stop", map[string]any{"drain": false}, &trigger); err != nil {
		if _, refused := errors.AsType[*statusError](err); refused {
			return "", err
		}
		return "", fmt.Errorf("%w: %w", ErrStopUnknown, err)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var failing time.Time // since when requests fail; the stop continues meanwhile
	for {
		at, err := c.savepoint(ctx, id, trigger.Request)
		status, answered := errors.AsType[*statusError](err)
		switch {
		case err == nil && at.Status.ID == "COMPLETED" && at.Operation.Location == "":
			first, _, _ := strings.Cut(at.Operation.Cause.Stack, "\n")
			return "", fmt.Errorf("submit: the savepoint of %s failed: %s", id, brief.Text(first))
		case err == nil && at.Status.ID == "COMPLETED":
			return at.Operation.Location, nil
		case err == nil:
			failing = time.Time{}
		case answered && status.code < 500:
			// Flink does not know the stop any more, for example because the JobManager
			// restarted.
			return "", fmt.Errorf("%w: %w", ErrStopUnknown, err)
		case failing.IsZero():
			failing = time.Now()
		case time.Since(failing) > restTimeout:
			return "", fmt.Errorf("%w, since Flink has not answered for %v: %w", ErrStopUnknown, restTimeout, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("%w, since waiting for it was cancelled: %w", ErrStopUnknown, context.Cause(ctx))
		}
	}
}

// savepoint is the state of a savepoint.
type savepoint struct {
	Status    struct{ ID string }
	Operation struct {
		Location string
		Cause    struct {
			Stack string `json:"stack-trace"`
		} `json:"failure-cause"`
	}
}

func (c Cluster) savepoint(ctx context.Context, id, request string) (at savepoint, err error) {
	err = c.call(ctx, "GET", "/jobs/"+id+"/savepoints/"+request, nil, &at)
	return at, err
}
