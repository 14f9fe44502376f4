package file

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/fsx"
)

// When a run goes on, it checks the parts that it has published: a job must not succeed with half
// of its results missing. The counters in the checkpoint say which parts there are. The sizes and
// checksums of the parts are lines of text. The latest lines are in the checkpoint. The others are
// in a hidden file beside the parts, the list, whose length and checksum are in the checkpoint. So
// a checkpoint does not grow with the number of parts, and the list is written only now and then.

const (
	listPrefix = ".parts-"
	// manyRecent is how many lines a checkpoint holds before they move to the list.
	manyRecent = 32
)

// listing is the list beside the parts, as a checkpoint knows it.
type listing struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	// Sum is the checksum of these bytes.
	Sum uint32 `json:"sum"`
}

// addition is what a plan appends to a list.
type addition struct {
	To    listing `json:"to"`
	Lines string  `json:"lines"`
}

// listsOf returns the beginning of the names of a job's lists.
func listsOf(job string) string { return listPrefix + digest(job) + "-" }

// newList returns a list with a name that no other run has.
func (c *committer) newList() listing {
	var unique [8]byte
	rand.Read(unique[:]) // never fails
	return listing{Name: c.lists + hex.EncodeToString(unique[:])}
}

// noSum replaces the checksum of a part that an earlier version wrote without one.
const noSum = "-"

// line returns the line for the part of a move.
func (m move) line() string {
	sum := m.Sum
	if sum == "" {
		sum = noSum
	}
	return fmt.Sprintf("%s %d %s\n", m.To, m.Bytes, sum)
}

// record adds the parts of moves to a state. It returns the addition to the list that the plan must
// make, or nil.
func (st *sinkState) record(moves []move, many int) *addition {
	var b strings.Builder
	b.WriteString(st.Recent)
	for _, m := range moves {
		b.WriteString(m.line())
	}
	st.Recent = b.String()
	if len(moves) == 0 || strings.Count(st.Recent, "\n") < many {
		return nil
	}
	a := &addition{To: st.List, Lines: st.Recent}
	st.List.Bytes += int64(len(st.Recent))
	st.List.Sum = crc32.Update(st.List.Sum, castagnoli, []byte(st.Recent))
	st.Recent = ""
	return a
}

// append carries out an addition, once, however often it is called. Other bytes at its place in the
// list belong to checkpoints that the run went back from, or to a write that a crash cut short.
func (c *committer) append(a *addition) error {
	name := filepath.Join(c.dir, a.To.Name)
	have, err := c.fs.Stat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("file: %w", err)
	}
	if err == nil && have.Size == a.To.Bytes {
		err = c.appendTo(name, a.Lines)
	} else {
		err = c.amend(name, a)
	}
	if _, lost := errors.AsType[*lostError](err); err != nil && !lost {
		return fmt.Errorf("file: writing the list of the parts: %w", err)
	}
	return err
}

func (c *committer) appendTo(name, lines string) error {
	f, err := c.fs.Append(name)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(lines))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// amend rewrites a list so that it ends with an addition.
func (c *committer) amend(name string, a *addition) error {
	have, err := c.fs.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !a.To.begins(have) {
		return c.listLost(a.To)
	}
	want := append(slices.Clip(have[:a.To.Bytes]), a.Lines...)
	if bytes.HasPrefix(have, want) {
		return c.appendTo(name, "") // the addition was there, but perhaps not synced
	}
	return fsx.WriteFile(c.fs, name, want)
}

// begins reports whether the bytes of a list begin with those that l describes.
func (l listing) begins(list []byte) bool {
	return int64(len(list)) >= l.Bytes && crc32.Checksum(list[:l.Bytes], castagnoli) == l.Sum
}

func (c *committer) listLost(l listing) error {
	return lost("file: %s, the list of the parts, is missing or is not what was written; put it back, or start afresh",
		filepath.Join(c.dir, l.Name))
}

// lostError says that published results are missing or damaged. A restart does not bring them back.
type lostError struct{ text string }

func (e *lostError) Error() string { return e.text }

// Verdict makes a lostError an async.Failure.
func (e *lostError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

func lost(format string, args ...any) error { return &lostError{fmt.Sprintf(format, args...)} }

// partInfo is what is known about a part. Nothing is known if an earlier version, without lists,
// published it.
type partInfo struct {
	known bool
	size  int64
	sum   string
}

// known reads what a state and its list say about the parts, by their names. todo is an addition
// that may not be in the list yet.
func (c *committer) known(st sinkState, todo *addition) (map[string]partInfo, error) {
	var list []byte
	if st.List.Bytes > 0 {
		var err error
		list, err = c.fs.ReadFile(filepath.Join(c.dir, st.List.Name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("file: %w", err)
		}
		if todo != nil && !st.List.begins(list) && todo.To.begins(list) {
			list = append(slices.Clip(list[:todo.To.Bytes]), todo.Lines...)
		}
		if !st.List.begins(list) {
			return nil, c.listLost(st.List)
		}
		list = list[:st.List.Bytes]
	}
	all := map[string]partInfo{}
	for line := range strings.Lines(string(list) + st.Recent) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, damagedLine(line)
		}
		size, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return nil, damagedLine(line)
		}
		all[fields[0]] = partInfo{true, size, strings.TrimPrefix(fields[2], noSum)}
	}
	return all, nil
}

func damagedLine(line string) error {
	return fmt.Errorf("file: the sink's state in the checkpoint is damaged: its line for a part is %.100q", line)
}

// Check implements connector.Checker: the parts that the run has published are there, with their
// sizes.
func (c *committer) Check(ctx context.Context, state []byte) error {
	st, err := parseState(state)
	if err != nil {
		return err
	}
	var wrong []string
	err = c.each(ctx, st, sinkPlan{}, func(p standing) error {
		switch {
		case !p.there && c.consumed:
		case p.wrong() != "":
			wrong = append(wrong, p.name+" "+p.wrong())
		}
		return nil
	})
	if err == nil && len(wrong) > 0 {
		err = lost("file: the job's output in %s has changed since it was published: %s; put it back, or start afresh; "+
			"if other programs take parts away, set consumed", c.dir, some(wrong))
	}
	return err
}

// standing is a published part and the state of its file.
type standing struct {
	name string
	info partInfo
	// file is the file of the part: the one with its name, or a pending one that will get the name.
	file  string
	there bool
	size  int64
}

// wrong says what is wrong with a part, judged by its size, or returns "".
func (p *standing) wrong() string {
	switch {
	case !p.there:
		return "is missing"
	case p.info.known && p.size != p.info.size:
		return fmt.Sprintf("has %d bytes and had %d", p.size, p.info.size)
	}
	return ""
}

// each calls f for every part that a state says was published. todo is a plan that may not have
// been carried out.
func (c *committer) each(ctx context.Context, st sinkState, todo sinkPlan, f func(standing) error) error {
	if len(st.Parts) == 0 {
		return nil
	}
	known, err := c.known(st, todo.Append)
	if err != nil {
		return err
	}
	entries, err := c.fs.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("file: reading the folder %s: %w", c.dir, err)
	}
	sizes := make(map[string]int64, len(entries))
	for _, e := range entries {
		if !e.Dir {
			sizes[e.Name] = e.Size
		}
	}
	pending := map[string]string{}
	for _, m := range todo.Moves {
		if _, there := sizes[m.From]; there {
			pending[m.To] = m.From
		}
	}
	for _, e := range st.Parts {
		for n := range e.N {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := standing{name: partName(e.Split, n)}
			p.info, p.file = known[p.name], p.name
			if from, is := pending[p.name]; is {
				p.file = from
			}
			p.size, p.there = sizes[p.file]
			if p.wrong() != "" {
				// The entry may be a link to a part that was moved elsewhere.
				if e, err := c.fs.Stat(filepath.Join(c.dir, p.file)); err == nil && !e.Dir {
					p.size, p.there = e.Size, true
				}
			}
			if err := f(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeOldLists removes the lists of earlier runs.
func (c *committer) removeOldLists(own string) error {
	entries, err := c.fs.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("file: reading the folder %s: %w", c.dir, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name, c.lists) && e.Name != own {
			if err := c.fs.Remove(filepath.Join(c.dir, e.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("file: removing the list of an earlier run's parts: %w", err)
			}
		}
	}
	return nil
}
