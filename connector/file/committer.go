package file

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/fsx"
)

// committer gives pending files their final names.
type committer struct {
	fs      fsx.FS
	dir     string
	abs     string // dir, from the root
	pending string // begins the job's pending names
	lists   string // begins the names of the job's lists of parts
	// many is from how many lines on they move to the list.
	many int
	// consumed: others may take parts away.
	consumed bool
	access   fsx.Access // to the folder and the parts
	lock     fsx.Lock   // of the folder, once something was changed in it
	// reached says how far splits were compared with what is there, so that no commit begins
	// anew.
	reached map[int]reached
}

// extent says how many parts of a split there are: 0 to N-1.
type extent struct {
	Split int   `json:"split"`
	N     int64 `json:"n"`
}

// sinkState is the committer's memory in a checkpoint.
type sinkState struct {
	// Dir is the folder, from the root. In another folder nothing is ours.
	Dir string `json:"dir"`
	// Parts are what this run has published.
	Parts []extent `json:"parts,omitempty"`
	// Stale are what was there before and is to go with the next plan, except for
	// what this run has published since under the same names.
	Stale []extent `json:"stale,omitempty"`
	// Retired are what the last plan was to take away. A crash may have kept it
	// from that, so the run that replaces this one must still know them.
	Retired []extent `json:"retired,omitempty"`
	// List and Recent say of which size the parts are, see published.go. Of those that a
	// program published that did not keep it they say nothing.
	List   listing `json:"list,omitzero"`
	Recent string  `json:"recent,omitempty"`
	// Consumed: others may have taken parts away.
	Consumed bool `json:"consumed,omitempty"`
	// Redo are parts that are being made again, see redo.go.
	Redo []redo `json:"redo,omitempty"`
}

// sinkPlan is what Commit does.
type sinkPlan struct {
	Moves []move `json:"moves,omitempty"`
	// Remove names the parts of earlier runs that have no successor here.
	Remove []removal `json:"remove,omitempty"`
	// List is the name of the run's list, Append what is to be added to it, if anything.
	List   string    `json:"list,omitempty"`
	Append *addition `json:"append,omitempty"`
	// Same are to be compared with what is there.
	Same []again `json:"same,omitempty"`
}

type move struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Bytes is the file's size, Sum its checksum.
	Bytes int64  `json:"bytes"`
	Sum   string `json:"sum,omitempty"`
	// Replace: what has the name is an earlier run's.
	Replace bool `json:"replace,omitempty"`
}

// removal is parts From to To-1 of a split.
type removal struct {
	Split int   `json:"split"`
	From  int64 `json:"from"`
	To    int64 `json:"to"`
}

// replaces says whether the plan takes anything of an earlier run away.
func (p sinkPlan) replaces() bool {
	return len(p.Remove) > 0 || slices.ContainsFunc(p.Moves, func(m move) bool { return m.Replace })
}

func count(list []extent, split int) int64 {
	i, ok := slices.BinarySearchFunc(list, split, func(e extent, s int) int { return cmp.Compare(e.Split, s) })
	if !ok {
		return 0
	}
	return list[i].N
}

// widest returns, for each split, the most that any of the lists has of it.
func widest(lists ...[]extent) []extent {
	all := slices.Concat(lists...)
	slices.SortFunc(all, func(a, b extent) int {
		return cmp.Or(cmp.Compare(a.Split, b.Split), cmp.Compare(b.N, a.N))
	})
	return slices.CompactFunc(all, func(a, b extent) bool { return a.Split == b.Split })
}

func parseState(b []byte) (sinkState, error) {
	var st sinkState
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("file: the sink's state in the checkpoint is not one of this sink: %w", err)
	}
	for _, list := range [][]extent{st.Parts, st.Stale, st.Retired} {
		ordered := slices.IsSortedFunc(list, func(a, b extent) int { return cmp.Compare(a.Split, b.Split) })
		if !ordered || st.List.Bytes < 0 || slices.ContainsFunc(list, func(e extent) bool { return e.Split < 0 || e.N < 0 }) {
			return st, errors.New("file: the sink's state in the checkpoint is damaged")
		}
	}
	return st, nil
}

// parsePlan reads a plan; none is one that does nothing.
func parsePlan(b []byte) (p sinkPlan, err error) {
	if len(b) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("file: the sink's plan in the checkpoint is not one of this sink: %w", err)
	}
	return p, nil
}

// Begin implements connector.Committer.
func (c *committer) Begin(ctx context.Context, previous []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := fsx.MkdirAll(c.fs, c.dir, c.access); err != nil {
		return nil, fmt.Errorf("file: making the folder %s: %w", c.dir, err)
	}
	if err := c.hold(); err != nil {
		return nil, err
	}
	st := sinkState{Dir: c.abs, List: c.newList()}
	if len(previous) > 0 {
		// A state of another sink, or about another folder, says nothing of this one.
		if old, err := parseState(previous); err == nil && old.Dir == c.abs {
			st.Stale = widest(old.Parts, old.Stale, old.Retired)
		}
	}
	entries, err := c.fs.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("file: reading the folder %s: %w", c.dir, err)
	}
	var foreign []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name, partPrefix) {
			continue
		}
		if split, n, ok := parsePart(e.Name); !ok || n >= count(st.Stale, split) {
			foreign = append(foreign, e.Name)
		}
	}
	if len(foreign) > 0 {
		return nil, fmt.Errorf("file: %s holds part files that no checkpoint of this job knows (%s): another job wrote them, or the job's checkpoints are gone. "+
			"No start replaces them, not even a fresh one: move or delete %s, or write to another folder",
			c.dir, some(foreign), filepath.Join(c.dir, partPrefix+"*"))
	}
	return json.Marshal(st)
}

// some names the first few of a list.
func some(names []string) string {
	if n := len(names); n > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), n-3)
	}
	return strings.Join(names, ", ")
}

// Plan implements connector.Committer. It supposes that the plan before, if any, was
// carried out.
func (c *committer) Plan(state []byte, pending []connector.Pending) (next, plan []byte, err error) {
	st, err := parseState(state)
	if err != nil {
		return nil, nil, err
	}
	var p sinkPlan
	var published []move
	parts := map[int]int64{}
	for _, e := range st.Parts {
		parts[e.Split] = e.N
	}
	for _, one := range slices.SortedStableFunc(slices.Values(pending), func(a, b connector.Pending) int { return cmp.Compare(a.Split, b.Split) }) {
		var f pendingForm
		if err := json.Unmarshal(one.Data, &f); err != nil || one.Split < 0 {
			return nil, nil, fmt.Errorf("file: a pending result of split %d is not one of this sink", one.Split)
		}
		n := parts[one.Split]
		if i := slices.IndexFunc(st.Redo, func(r redo) bool { return r.Split == one.Split && r.Done < r.Bytes }); i >= 0 {
			sum, err := strconv.ParseUint(f.Sum, 16, 32)
			if err != nil {
				return nil, nil, fmt.Errorf("file: a pending result of split %d is not one of this sink", one.Split)
			}
			a, more, size, rest := st.Redo[i].take(f, uint32(sum))
			if more {
				a.To = &move{To: partName(one.Split, n), Bytes: size, Sum: fmt.Sprintf("%08x", rest)}
				parts[one.Split] = n + 1
				published = append(published, *a.To)
			}
			p.Same = append(p.Same, a)
			continue
		}
		p.Moves = append(p.Moves, move{From: f.Name, To: partName(one.Split, n), Bytes: f.Bytes, Sum: f.Sum, Replace: n < count(st.Stale, one.Split)})
		published = append(published, p.Moves[len(p.Moves)-1])
		parts[one.Split] = n + 1
	}
	after := sinkState{Dir: st.Dir, Retired: st.Stale, List: st.List, Recent: st.Recent, Consumed: c.consumed}
	if after.List.Name == "" {
		after.List = c.newList() // the run was begun by a program that kept none
	}
	after.Redo = slices.DeleteFunc(st.Redo, func(r redo) bool { return r.Done == r.Bytes })
	p.List, p.Append = after.List.Name, after.record(published, c.many)
	for split, n := range parts {
		after.Parts = append(after.Parts, extent{Split: split, N: n})
	}
	slices.SortFunc(after.Parts, func(a, b extent) int { return cmp.Compare(a.Split, b.Split) })
	for _, e := range st.Stale {
		if n := parts[e.Split]; n < e.N {
			p.Remove = append(p.Remove, removal{Split: e.Split, From: n, To: e.N})
		}
	}
	if next, err = json.Marshal(after); err != nil {
		return nil, nil, err
	}
	if p.Moves == nil && p.Remove == nil && p.Same == nil {
		return next, nil, nil
	}
	plan, err = json.Marshal(p)
	return next, plan, err
}

// Rewind returns the state to go on with when a run is restored from a checkpoint
// that is not its newest: state is that checkpoint's, newest the newest one's.
// What was published in between is replaced with the next plan. The newest one's
// plan must have been carried out, in place of the older one's.
func (c *committer) Rewind(state, newest []byte) ([]byte, error) {
	st, err := parseState(state)
	if err != nil {
		return nil, err
	}
	last, err := parseState(newest)
	if err != nil {
		return nil, err
	}
	st.Stale = widest(st.Stale, last.Parts, last.Stale, last.Retired)
	st.Retired = nil
	return json.Marshal(st)
}

// Commit implements connector.Committer.
func (c *committer) Commit(ctx context.Context, plan []byte) error {
	if len(plan) == 0 {
		return nil
	}
	p, err := parsePlan(plan)
	if err != nil {
		return err
	}
	if err := c.hold(); err != nil {
		return err
	}
	todo, stale, err := c.inspect(ctx, p)
	again, aerr := c.same(ctx, p.Same)
	if err := errors.Join(err, aerr); err != nil {
		return err
	}
	if p.Append != nil {
		if err := c.append(p.Append); err != nil {
			return err
		}
	}
	for _, name := range stale {
		if err := c.fs.Remove(filepath.Join(c.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("file: removing a part of the run before: %w", err)
		}
	}
	if p.replaces() {
		if err := c.removeOldLists(p.List); err != nil {
			return err
		}
		// They are gone for good before the first new one shows, so that two runs
		// are never seen together. A process that was killed may have removed them
		// and not come to this.
		if err := c.syncDir(); err != nil {
			return err
		}
	}
	for _, m := range todo {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := c.share(filepath.Join(c.dir, m.From))
		if err == nil {
			err = c.fs.Rename(filepath.Join(c.dir, m.From), filepath.Join(c.dir, m.To))
		}
		if err != nil {
			return fmt.Errorf("file: publishing: %w", err)
		}
	}
	if err := c.settle(again); err != nil {
		return err
	}
	// Also when there was nothing to do: a process that was killed may have moved
	// the files and not synced the folder.
	return c.syncDir()
}

// share makes a part one that others may read, unless it is not for them.
func (c *committer) share(name string) error {
	if c.access == fsx.Private {
		return nil
	}
	return c.fs.Share(name)
}

func (c *committer) syncDir() error {
	if err := c.fs.SyncDir(c.dir); err != nil {
		return fmt.Errorf("file: syncing the folder %s: %w", c.dir, err)
	}
	return nil
}

// inspect says which moves of a plan are still to be done, and which parts must
// go first. It changes nothing, so a plan that can't be carried out does no harm. Every file that
// is in the way is named.
func (c *committer) inspect(ctx context.Context, p sinkPlan) (todo []move, stale []string, err error) {
	if a := p.Append; a != nil && (filepath.Base(a.To.Name) != a.To.Name || !strings.HasPrefix(a.To.Name, listPrefix) || a.To.Bytes < 0) {
		return nil, nil, fmt.Errorf("file: the sink's plan in the checkpoint is damaged: it would write %q", a.To.Name)
	}
	var wrong []error
	for _, m := range p.Moves {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		if _, _, ok := parsePart(m.To); !ok || filepath.Base(m.From) != m.From || !strings.HasPrefix(m.From, pendingPrefix) {
			return nil, nil, fmt.Errorf("file: the sink's plan in the checkpoint is damaged: it would rename %q to %q", m.From, m.To)
		}
		from, errFrom := c.fs.Stat(filepath.Join(c.dir, m.From))
		to, errTo := c.fs.Stat(filepath.Join(c.dir, m.To))
		for _, err := range []error{errFrom, errTo} {
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, nil, fmt.Errorf("file: %w", err)
			}
		}
		switch {
		case errFrom != nil && errTo != nil && c.consumed: // done before, and taken away
		case errFrom != nil && errTo != nil:
			wrong = append(wrong, lost("file: %s holds neither %s nor %s, and the checkpoint needs one of them: part of the output was removed, or the folder is another one; put it back, or start afresh",
				c.dir, m.From, m.To))
		case errFrom != nil && to.Size != m.Bytes:
			wrong = append(wrong, lost("file: %s has %d bytes and %d were written; put it back as it was, or start afresh",
				filepath.Join(c.dir, m.To), to.Size, m.Bytes))
		case errFrom != nil: // done before
		case from.Size != m.Bytes:
			wrong = append(wrong, lost("file: %s has %d bytes and %d were synced; the disk has lost data, start afresh",
				filepath.Join(c.dir, m.From), from.Size, m.Bytes))
		case errTo == nil && !m.Replace:
			wrong = append(wrong, lost("file: %s exists and this job did not write it; move it away, and resume",
				filepath.Join(c.dir, m.To)))
		default:
			todo = append(todo, m)
			if errTo == nil {
				stale = append(stale, m.To)
			}
		}
	}
	if wrong != nil {
		return nil, nil, errors.Join(wrong...)
	}
	if len(p.Remove) == 0 {
		return todo, stale, nil
	}
	entries, err := c.fs.ReadDir(c.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("file: reading the folder %s: %w", c.dir, err)
	}
	for _, e := range entries {
		split, n, ok := parsePart(e.Name)
		if ok && slices.ContainsFunc(p.Remove, func(r removal) bool { return r.Split == split && r.From <= n && n < r.To }) {
			stale = append(stale, e.Name)
		}
	}
	return todo, stale, nil
}

// Clean implements connector.Committer.
func (c *committer) Clean(ctx context.Context) error {
	entries, err := c.fs.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("file: reading the folder %s: %w", c.dir, err)
	}
	if err := c.hold(); err != nil {
		return err
	}
	removed := false
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !strings.HasPrefix(e.Name, c.pending) && !strings.HasPrefix(e.Name, fsx.TempPrefix+c.lists) && !strings.HasPrefix(e.Name, fsx.TempPrefix+partPrefix) {
			continue
		}
		if err := c.fs.Remove(filepath.Join(c.dir, e.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("file: removing a leftover: %w", err)
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return c.syncDir()
}

// Close implements connector.Committer.
func (c *committer) Close() error { return c.letGo() }
