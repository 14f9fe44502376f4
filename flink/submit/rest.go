package submit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Cluster is Flink's own interface, for what Beam's job server does not do: its Cancel leaves the job running.
type Cluster struct {
	// Address is host:port or a URL of Flink's REST interface.
	Address string
}

// restTimeout bounds one question.
const restTimeout = 30 * time.Second

// call asks Flink; answer may be nil.
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
	req.Close = true // seldom asked
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("submit: Flink at %s: %w", c.Address, err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s: %.500s", resp.Status, said)
	}
	if err == nil && answer != nil {
		err = json.Unmarshal(said, answer)
	}
	if err != nil {
		return fmt.Errorf("submit: Flink at %s: %s %s: %w", c.Address, method, path, err)
	}
	return nil
}

// Find returns Flink's id of the newest job of a name that has not ended and was submitted since a time; empty if there is none.
func (c Cluster) Find(ctx context.Context, name string, since time.Time) (id string, err error) {
	var all struct {
		Jobs []struct {
			ID    string `json:"jid"`
			Name  string `json:"name"`
			State string `json:"state"`
			Start int64  `json:"start-time"`
			End   int64  `json:"end-time"`
		} `json:"jobs"`
	}
	if err := c.call(ctx, "GET", "/jobs/overview", nil, &all); err != nil {
		return "", err
	}
	newest := since.UnixMilli()
	for _, j := range all.Jobs {
		if j.Name == name && j.End <= 0 && j.Start >= newest {
			id, newest = j.ID, j.Start
		}
	}
	return id, nil
}

// Cancel cancels a job. It is cancelled some time after Cancel returns.
func (c Cluster) Cancel(ctx context.Context, id string) error {
	return c.call(ctx, "PATCH", "/jobs/"+id+"?mode=cancel", nil, nil)
}

// Stop stops a job with a savepoint in the cluster's folder for those, and returns its path when that is done.
func (c Cluster) Stop(ctx context.Context, id string) (savepoint string, err error) {
	var trigger struct {
		Request string `json:"request-id"`
	}
	if err := c.call(ctx, "POST", "/jobs/"+id+"/stop", map[string]any{"drain": false}, &trigger); err != nil {
		return "", err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		var at struct {
			Status    struct{ ID string }
			Operation struct {
				Location string
				Cause    struct {
					Class string `json:"class"`
					Stack string `json:"stack-trace"`
				} `json:"failure-cause"`
			}
		}
		if err := c.call(ctx, "GET", "/jobs/"+id+"/savepoints/"+trigger.Request, nil, &at); err != nil {
			return "", err
		}
		if at.Status.ID == "COMPLETED" {
			if at.Operation.Location == "" {
				first, _, _ := strings.Cut(at.Operation.Cause.Stack, "\n")
				return "", fmt.Errorf("submit: the savepoint of %s failed: %s", id, first)
			}
			return at.Operation.Location, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", errors.Join(errors.New("submit: no longer waiting for the savepoint"), context.Cause(ctx))
		}
	}
}
