package stream

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// rewinder is a committer that can go back, and says from what.
type rewinder struct{ connector.Committer }

func (rewinder) Rewind(state, newest []byte) ([]byte, error) {
	return []byte(string(state) + "<" + string(newest)), nil
}

func TestRewind(t *testing.T) {
	snap := func(id int64, state, plan string) *checkpoint.Snapshot {
		return &checkpoint.Snapshot{ID: id, Run: "r", Sections: []checkpoint.Section{
			{Operator: "in", Kind: checkpoint.KindSource, Parts: []checkpoint.Part{{Name: checkpoint.PartSplit, Data: []byte{byte(id)}}}},
			{Operator: "out", Kind: checkpoint.KindSink, Parallelism: 2, Parts: []checkpoint.Part{
				{Split: -1, Name: partState, Data: []byte(state)}, {Split: -1, Name: partPlan, Data: []byte(plan)}}},
		}}
	}
	from, newest := snap(3, "s3", "p3"), snap(5, "s5", "p5")
	got, err := Rewind(from, newest, map[string]connector.Committer{"out": rewinder{}})
	if err != nil {
		t.Fatal(err)
	}
	// The source goes on from the old checkpoint; the sink knows of both, and what the
	// newest one planned is carried out.
	if string(part(&got.Sections[0], checkpoint.PartSplit)) != "\x03" || got.ID != 3 {
		t.Errorf("it is not the old checkpoint: %+v", got)
	}
	if s, p := part(&got.Sections[1], partState), part(&got.Sections[1], partPlan); string(s) != "s3<s5" || string(p) != "p5" {
		t.Errorf("the sink's state is %q and its plan %q, want s3<s5 and p5", s, p)
	}
	if string(part(&from.Sections[1], partState)) != "s3" || string(part(&newest.Sections[1], partState)) != "s5" {
		t.Error("a checkpoint that was given was changed")
	}

	other := snap(5, "s5", "p5")
	other.Run = "another"
	bare := snap(5, "s5", "p5")
	bare.Sections = bare.Sections[:1]
	for _, c := range []struct {
		newest     *checkpoint.Snapshot
		committers map[string]connector.Committer
		want       string
	}{
		{newest, map[string]connector.Committer{"out": struct{ connector.Committer }{}}, "cannot take back the results that it has published since checkpoint 3"},
		{newest, nil, "cannot take back"},
		{other, map[string]connector.Committer{"out": rewinder{}}, "checkpoint 3 is of run r, but checkpoint 5 is of run another"},
		{bare, map[string]connector.Committer{"out": rewinder{}}, "checkpoint 5 holds no state of it"},
	} {
		if _, err := Rewind(from, c.newest, c.committers); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// forgetful is a store whose newest checkpoint is damaged or gone once there are three.
type forgetful struct {
	CheckpointStore
	all []*checkpoint.Snapshot
}

func (f *forgetful) Write(ctx context.Context, s *checkpoint.Snapshot) error {
	f.all = append(f.all, s)
	return f.CheckpointStore.Write(ctx, s)
}

func (f *forgetful) Newest(context.Context) (*checkpoint.Snapshot, error) {
	return f.all[len(f.all)-2], nil
}

// TestARestartDoesNotGoBackBehindWhatIsPublished: only the user knows whether the job makes the
// same results again, so a restart does not decide that.
func TestARestartDoesNotGoBackBehindWhatIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New("forgetful", Config{Checkpoint: CheckpointConfig{Interval: 10 * time.Millisecond, Store: &forgetful{CheckpointStore: NewMemoryStore()}}})
		f := &flaky{left: map[int]int{100: 1}}
		out := Collect(OrderedWait(From(j, FromSlice(numbers(200))), async.Func(f.call, 4), async.Config{Capacity: 8, Retry: async.Retry{Max: async.Off}}))
		r := j.Start(t.Context())
		err := r.Wait()
		if err == nil || !strings.Contains(err.Error(), "so a restart cannot go back to an older checkpoint; resume the run") || len(out.Results()) == 0 {
			t.Errorf("%d results, %v", len(out.Results()), err)
		}
	})
}
