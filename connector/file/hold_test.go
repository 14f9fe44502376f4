package file

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

// TestTwoJobsAndOneFolder: whatever the second job does first, its error says which process has the
// folder. It gets the folder when the first job is closed or gone.
func TestTwoJobsAndOneFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	open := func(job string) connector.Committer {
		c, err := NewSink(SinkConfig[json.RawMessage]{Encode: RawLine, Dir: dir, Job: job}).Committer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := open("a")
	state, err := first.Begin(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, plan, err := first.Plan(state, []connector.Pending{{Data: []byte(`{"name":".pending-0-0"}`)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range []string{"a", "b"} {
		second := open(job)
		_, err := second.Begin(ctx, nil)
		for does, err := range map[string]error{"Begin": err, "Commit": second.Commit(ctx, plan), "Clean": second.Clean(ctx)} {
			want := fmt.Sprintf("the job of process %d writes into the folder %s", os.Getpid(), dir)
			if err == nil || !strings.Contains(err.Error(), want) || async.VerdictOf(err).Class != async.Permanent {
				t.Errorf("%s of job %s: %v; want %s", does, job, err, want)
			}
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(first.Clean(ctx), first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	// A killed job leaves its file, but no lock.
	if err := os.WriteFile(filepath.Join(dir, lockName), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	second := open("b")
	if _, err := second.Begin(ctx, nil); err != nil {
		t.Error(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}
