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
	// many is how many lines the checkpoint holds before they move to the list.
	many int
	// consumed: other programs may take parts away.
	consumed bool
	access   fsx.Access // to the folder and the parts
	lock     fsx.Lock   // of the folder, once something was changed in it
	// reached says how far splits were compared with the existing parts, so that a commit does not
	// compare them from the beginning.
	reached map[int]reached
}

// extent says how many parts of a split there are: 0 to N-1.
type extent struct {
	Split int   `json:"split"`
	N     int64 `json:"n"`
}

// sinkState is the committer's memory in a checkpoint.
type sinkState struct {
	// Dir is the absolute path of the folder. Files in any other folder are not ours.
	Dir string `json:"dir"`
	// Parts are what this run has published.
	Parts []extent `json:"parts,omitempty"`
	// Stale are the parts of earlier runs. The next plan removes them, except for those whose names
	// this run has used since.
	Stale []extent `json:"stale,omitempty"`
	// Retired are the parts that the last plan removes. A crash may have prevented that, so the run
	// that replaces this one must still know them.
	Retired []extent `json:"retired,omitempty"`
	// List and Recent have the sizes of the parts (see published.go). They lack the parts that an
	// earlier version of the program published.
	List   listing `json:"list,omitzero"`
	Recent string  `json:"recent,omitempty"`
	// Consumed: other programs may have taken parts away.
	Consumed bool `json:"consumed,omitempty"`
	// Redo are parts that are being made again (see redo.go).
	Redo []redo `json:"redo,omitempty"`
}

// sinkPlan is what Commit does.
type sinkPlan struct {
	Moves []move `json:"moves,omitempty"`
	// Remove names the parts of earlier runs that this run does not replace by new ones.
	Remove []removal `json:"remove,omitempty"`
	// List is the name of the run's list. Append is what the plan appends to it, or nil.
	List   string    `json:"list,omitempty"`
	Append *addition `json:"append,omitempty"`
	// Same are pending files that must be compared with existing parts.
	Same []again `json:"same,omitempty"`
}

type move struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Bytes is the file's size, Sum its checksum.
	Bytes int64  `json:"bytes"`
	Sum   string `json:"sum,omitempty"`
	// Replace: an existing part with the name belongs to an earlier run.
	Replace bool `json:"replace,omitempty"`
}

// removal is parts From to To-1 of a split.
type removal struct {
	Split int   `json:"split"`
	From  int64 `json:"from"`
	To    int64 `json:"to"`
}

// replaces reports whether the plan removes or replaces parts of an earlier run.
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

// widest returns, for each split, the largest extent of it in any of the lists.
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
		return st, fmt.Errorf("file: the sink's state in the checkpoint is that of another kind of sink: %w", err)
	}
	for _, list := range [][]extent{st.Parts, st.Stale, st.Retired} {
		ordered := slices.IsSortedFunc(list, func(a, b extent) int { return cmp.Compare(a.Split, b.Split) })
		if !ordered || st.List.Bytes < 0 || slices.ContainsFunc(list, func(e extent) bool { return e.Split < 0 || e.N < 0 }) {
			return st, errors.New("file: the sink's state in the checkpoint is damaged")
		}
	}
	return st, nil
}

// parsePlan reads a plan. An empty one does nothing.
func parsePlan(b []byte) (p sinkPlan, err error) {
	if len(b) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("file: the sink's plan in the checkpoint is that of another kind of sink: %w", err)
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
		// A state of another sink, or of another folder, does not describe this one.
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
			"A start does not replace them, not even a fresh one: move or delete %s, or write to another folder",
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

// Plan implements connector.Committer. It assumes that the plan before, if any, was carried out.
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
		after.List = c.newList() // an earlier version of the program, without lists, began the run
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

// Rewind returns the state to go on with when a run is restored from a checkpoint that is not its
// newest. state is that checkpoint's state, and newest the state of the newest one. The next plan
// replaces what was published in between. The plan of the newest checkpoint must have been carried
// out, instead of the older one's.
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
			return fmt.Errorf("file: removing a part of the earlier run: %w", err)
		}
	}
	if p.replaces() {
		if err := c.removeOldLists(p.List); err != nil {
			return err
		}
		// The removal is durable before the first new part appears, so that parts of two runs are
		// never seen together. A process that was killed may have removed files without this sync.
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
	// This is needed even if there was nothing to do: a process that was killed may have moved the
	// files without syncing the folder.
	return c.syncDir()
}

// share lets other users read a part, unless the sink is private.
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

// inspect returns the moves of a plan that are still to be done, and the parts that must be removed
// first. It changes nothing, so a plan that cannot be carried out does no harm. The error names
// every file that is in the way.
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
		case errFrom != nil && errTo != nil && c.consumed: // published before, and taken away since
		case errFrom != nil && errTo != nil:
			wrong = append(wrong, lost("file: %s holds neither %s nor %s, but the checkpoint needs one of them: part of the output was removed, or the folder was replaced; put it back, or start afresh",
				c.dir, m.From, m.To))
		case errFrom != nil && to.Size != m.Bytes:
			wrong = append(wrong, lost("file: %s has %d bytes, but %d were written; put the original back, or start afresh",
				filepath.Join(c.dir, m.To), to.Size, m.Bytes))
		case errFrom != nil: // done before
		case from.Size != m.Bytes:
			wrong = append(wrong, lost("file: %s has %d bytes, but %d were synced; the disk has lost data, start afresh",
				filepath.Join(c.dir, m.From), from.Size, m.Bytes))
		case errTo == nil && !m.Replace:
			wrong = append(wrong, lost("file: %s exists and this job did not write it; move it away, then resume the job",
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
