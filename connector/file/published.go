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

// What a run has published is checked when it goes on: a job that answers for half of its results
// is not well. Which parts there are follows from the counters in the checkpoint. Their sizes and
// checksums are lines of text: the latest in the checkpoint, and the others in a hidden file beside
// the parts, of which the checkpoint knows the length and the checksum. So a checkpoint does not
// grow with the number of parts, and the file is written once in a while.

const (
	listPrefix = ".parts-"
	// manyRecent is from how many lines on they move from the checkpoint to the list.
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

// listsOf begins the names of a job's lists.
func listsOf(job string) string { return listPrefix + digest(job) + "-" }

// newList names a list that no other run has.
func (c *committer) newList() listing {
	var unique [8]byte
	rand.Read(unique[:]) // never fails
	return listing{Name: c.lists + hex.EncodeToString(unique[:])}
}

// noSum stands in for the checksum of a part that was written when there were none.
const noSum = "-"

// line says of a move what its part is.
func (m move) line() string {
	sum := m.Sum
	if sum == "" {
		sum = noSum
	}
	return fmt.Sprintf("%s %d %s\n", m.To, m.Bytes, sum)
}

// record adds moves to what a state says of its parts. What it returns is for the plan: what is to
// go to the list.
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

// append carries an addition out, once, however often it is called. What else is behind its place
// in the list is of a past that the run went back from, or was cut short by a crash.
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

// amend makes a list what it is with an addition.
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
		return c.appendTo(name, "") // it was there, and perhaps not synced
	}
	return fsx.WriteFile(c.fs, name, want)
}

// begins says whether a list begins with what is known of it.
func (l listing) begins(list []byte) bool {
	return int64(len(list)) >= l.Bytes && crc32.Checksum(list[:l.Bytes], castagnoli) == l.Sum
}

func (c *committer) listLost(l listing) error {
	return lost("file: %s, the list of the parts, is missing or is not what was written; put it back, or start afresh",
		filepath.Join(c.dir, l.Name))
}

// lostError says what has become of results. No restart brings them back.
type lostError struct{ text string }

func (e *lostError) Error() string { return e.text }

// Verdict makes a lostError an async.Failure.
func (e *lostError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

func lost(format string, args ...any) error { return &lostError{fmt.Sprintf(format, args...)} }

// partInfo is what is known of a part: nothing if it was published by a program that kept no list.
type partInfo struct {
	known bool
	size  int64
	sum   string
}

// known reads what a state and its list say of the parts, by their names. todo is what may not have
// come to the list yet.
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
	return fmt.Errorf("file: the sink's state in the checkpoint is damaged: it says of a part %.100q", line)
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
		err = lost("file: what the job has published in %s is not there as it was: %s; put it back, or start afresh; "+
			"if others take parts away, say so (consumed)", c.dir, some(wrong))
	}
	return err
}

// standing is a published part, and what is there of it.
type standing struct {
	name string
	info partInfo
	// file has the part: that of its name, or a pending one that is still to get it.
	file  string
	there bool
	size  int64
}

// wrong says what is wrong with a part, as far as its size tells.
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
				// It may be a link to what was moved.
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
