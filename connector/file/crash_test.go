package file

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/fsx"
	"github.com/tensorferry/tensorferry/internal/simfs"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// The crash tests write two runs of a job, one after the other, into a folder on
// a simulated disk: what the runtime would do, in as few lines as it takes.

const (
	splits   = 3
	perSplit = 7
)

func record(run string, split, i int) async.Record[json.RawMessage] {
	return async.Record[json.RawMessage]{
		Value: fmt.Appendf(nil, `{"run":%q,"split":%d,"i":%d}`, run, split, i), Split: split, Position: int64(i), Time: async.NoTime,
	}
}

func wanted(run string) string {
	var b strings.Builder
	for split := range splits {
		for i := range perSplit {
			fmt.Fprintf(&b, "%s\n", record(run, split, i).Value)
		}
	}
	return b.String()
}

// cat is the published output, in the order of names.
func cat(d *simfs.Disk) string {
	files := d.Files("out")
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasPrefix(name, partPrefix) {
			b.Write(files[name])
		}
	}
	return b.String()
}

// saved is what a checkpoint holds.
type saved struct {
	Input       string
	Next        [splits]int
	State, Plan []byte
}

func parseSaved(s *checkpoint.Snapshot) (v saved, err error) {
	err = json.Unmarshal(s.Sections[0].Parts[0].Data, &v)
	return v, err
}

// How a run that was interrupted goes on.
const (
	resume = iota
	fresh  // discarded, and begun anew
	back   // from the oldest checkpoint that is kept
	ways
)

// drive goes on with whatever is on the disk until both runs, "a" and "b", are done.
func drive(d *simfs.Disk, how int) error {
	store, err := checkpoint.Open("ckpt", checkpoint.Options{FS: d, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer store.Close()
	st, err := store.State()
	if err != nil {
		return err
	}
	begin := store.Resume
	if st.Phase == checkpoint.Unfinished && how == fresh {
		begin = store.Fresh
	}
	if st.Newest != nil && how == back {
		list, err := store.List()
		if err != nil {
			return err
		}
		oldest := list[slices.IndexFunc(list, func(i checkpoint.Info) bool { return i.Run == st.Run })]
		begin = func(job string) (*checkpoint.Run, error) { return store.From(job, oldest.Path) }
	}
	for {
		r, err := begin("job")
		if err != nil {
			return err
		}
		done, err := goOn(d, store, r)
		if err != nil || done {
			return err
		}
		begin = store.Start
	}
}

// goOn carries one run to its end, and says whether it was the last.
func goOn(d *simfs.Disk, store *checkpoint.Store, r *checkpoint.Run) (last bool, err error) {
	sink := NewSink(SinkConfig[json.RawMessage]{Encode: RawLine, Dir: "out", Job: "job", fs: d, MaxOpen: 1, many: 2 + r.Attempt%4})
	c, err := sink.Committer(ctx)
	if err != nil {
		return false, err
	}
	defer c.Close()
	now := saved{Input: "a"}
	if r.Restore != nil {
		var newest saved
		if now, err = parseSaved(r.Restore); err != nil {
			return false, err
		}
		if newest, err = parseSaved(r.Newest); err != nil {
			return false, err
		}
		if err = c.Commit(ctx, newest.Plan); err == nil && r.Restore.ID != r.Newest.ID {
			now.State, err = c.(connector.Rewinder).Rewind(now.State, newest.State)
		}
	} else {
		var previous saved
		if r.Previous != nil {
			now.Input = "b"
			if previous, err = parseSaved(r.Previous); err != nil {
				return false, err
			}
		}
		now.State, err = c.Begin(ctx, previous.State)
	}
	if err == nil && r.Restore != nil {
		err = c.(connector.Checker).Check(ctx, now.State)
	}
	if err == nil {
		err = c.Clean(ctx)
	}
	if err != nil || r.Restore != nil && r.Restore.Finished && r.Restore.ID == r.Newest.ID {
		return now.Input == "b", err
	}

	writers := make([]connector.Writer[json.RawMessage], 1+r.Attempt%3)
	for i := range writers {
		writers[i], err = sink.Open(ctx, async.Subtask{Index: i, Run: r.ID, Attempt: r.Attempt})
		if err != nil {
			return false, err
		}
		defer writers[i].Close()
	}
	var pending []connector.Pending
	for id := r.LastID + 1; ; id++ {
		finished := true
		for range 2 {
			for split := range splits {
				if now.Next[split] < perSplit {
					recs := []async.Record[json.RawMessage]{record(now.Input, split, now.Next[split])}
					if err := writers[split%len(writers)].Write(recs); err != nil {
						return false, err
					}
					now.Next[split]++
				}
				finished = finished && now.Next[split] == perSplit
			}
		}
		for _, w := range writers {
			more, err := w.Prepare(ctx, id)
			if err != nil {
				return false, err
			}
			pending = append(pending, more...)
		}
		if id%3 == 2 && !finished {
			continue // this checkpoint is aborted: what it prepared joins the next
		}
		if now.State, now.Plan, err = c.Plan(now.State, pending); err != nil {
			return false, err
		}
		data, err := json.Marshal(now)
		if err != nil {
			return false, err
		}
		err = store.Write(ctx, &checkpoint.Snapshot{ID: id, Job: "job", Run: r.ID, Attempt: r.Attempt, Finished: finished,
			Sections: []checkpoint.Section{{Parts: []checkpoint.Part{{Data: data}}}}})
		if err != nil {
			return false, err
		}
		if err := c.Commit(ctx, now.Plan); err != nil {
			return false, err
		}
		pending = nil
		if err := c.(connector.Checker).Check(ctx, now.State); err != nil {
			return false, err
		}
		if finished {
			return now.Input == "b", nil
		}
	}
}

// reboot ends the machine in one of several ways.
func reboot(d *simfs.Disk, way int) *simfs.Disk {
	switch way {
	case 0:
		return d.Kill()
	case 1:
		return d.LoseAll()
	}
	return d.PowerLoss(uint64(way))
}

// A crash between any two operations on the disk, of any kind, and perhaps
// another one after it: the output is that of a run without crashes.
func TestAnyCrashGivesTheSameOutput(t *testing.T) {
	whole := simfs.New()
	if err := drive(whole, resume); err != nil {
		t.Fatal(err)
	}
	if got := cat(whole); got != wanted("b") {
		t.Fatalf("without a crash: %s", got)
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 3))
	for n := 1; n <= whole.Ops(); n++ {
		for way := range 4 {
			how := r.IntN(ways)
			d := simfs.New()
			d.CrashAt(n)
			var err error
			for crashes := 0; ; crashes++ {
				err = drive(d, how)
				if !d.Crashed() {
					break
				}
				// Otherwise the job was over, and gave its lock back.
				if err == nil && cat(d.LoseAll()) != wanted("b") {
					t.Fatalf("operation %d: a crash and no error", n)
				}
				d = reboot(d, way)
				way = r.IntN(6) // of the next crash
				if out := cat(d); strings.Contains(out, `"a"`) && strings.Contains(out, `"b"`) {
					t.Fatalf("seed %d, crash at operation %d, how %d: two runs are seen together:\n%s", seed, n, how, out)
				}
				if crashes < 2 {
					d.CrashAt(d.Ops() + 1 + r.IntN(60))
				}
			}
			if err != nil {
				t.Fatalf("seed %d, crash at operation %d, way %d, how %d: %v", seed, n, way, how, err)
			}
			if got := cat(d.LoseAll()); got != wanted("b") {
				t.Fatalf("seed %d, crash at operation %d, way %d, how %d:\n%s", seed, n, way, how, got)
			}
			for name := range d.Files(".") { // before the loss of power
				if strings.Contains(name, pendingPrefix) || strings.Contains(name, fsx.TempPrefix) {
					t.Fatalf("seed %d, crash at operation %d, way %d: %s is left", seed, n, way, name)
				}
			}
		}
	}
}

// An error of the disk at any operation fails the run, and the next attempt
// makes it good.
func TestAnyFaultGivesTheSameOutput(t *testing.T) {
	broken := errors.New("input/output error")
	for n := 1; ; n++ {
		d := simfs.New()
		hit := false
		d.Fail(func(op simfs.Op) error {
			if op.N != n {
				return nil
			}
			hit = true
			return broken
		})
		err := drive(d, resume)
		if !hit {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if err != nil {
			if !errors.Is(err, broken) {
				t.Fatalf("fault at %d: an error that does not say why: %v", n, err)
			}
			if err := drive(d, resume); err != nil {
				t.Fatalf("fault at %d, the next attempt: %v", n, err)
			}
		}
		if got := cat(d); got != wanted("b") {
			t.Fatalf("fault at %d:\n%s", n, got)
		}
	}
}
