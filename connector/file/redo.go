package file

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/fsx"
)

// When checkpoints are damaged or gone, there may be parts that no checkpoint lists. A job whose
// results are always the same can go on. The published parts stay in place, the job makes their
// results again, and these are compared with the parts, byte by byte, until there is nothing left
// to compare. It does not matter at which bytes the parts were cut the first time.

// redo says which parts of a split are being made again.
type redo struct {
	Split int `json:"split"`
	// The parts from First on are compared. Bytes is their size together, and Sum their checksum.
	First int64  `json:"first"`
	Bytes int64  `json:"bytes"`
	Sum   uint32 `json:"sum"`
	// Done is how many of the bytes have been made again, and DoneSum their checksum.
	Done    int64  `json:"done,omitempty"`
	DoneSum uint32 `json:"doneSum,omitempty"`
}

// again is a pending file that must be compared. Its first Bytes must equal the bytes from At on of
// the parts of a split, counted from the part First.
type again struct {
	From  string `json:"from"`
	Split int    `json:"split"`
	First int64  `json:"first"`
	At    int64  `json:"at"`
	Bytes int64  `json:"bytes"`
	// To, if set, is the part that the rest of the pending file becomes.
	To *move `json:"to,omitempty"`
}

// take plans the comparison of a pending file with the parts of its split. more says that the file
// is longer than they are. The rest becomes a part of its own, with that size and checksum.
func (r *redo) take(f pendingForm, sum uint32) (a again, more bool, size int64, rest uint32) {
	same := min(f.Bytes, r.Bytes-r.Done)
	a = again{From: f.Name, Split: r.Split, First: r.First, At: r.Done, Bytes: same}
	r.DoneSum = joined(r.DoneSum, sum, f.Bytes)
	r.Done += same
	size = f.Bytes - same
	return a, size > 0, size, r.DoneSum ^ shifted(r.Sum, size)
}

// joined returns the checksum of bytes with the checksum first that n bytes with the checksum
// second follow.
func joined(first, second uint32, n int64) uint32 { return shifted(first, n) ^ second }

// shifted returns what the checksum of some bytes contributes to the checksum of these bytes and n
// more. That does not depend on the n bytes, so it is computed with zeros.
func shifted(sum uint32, n int64) uint32 {
	var zeros [32 << 10]byte
	start := uint32(0)
	for n > 0 {
		z := zeros[:min(n, int64(len(zeros)))]
		sum, start = crc32.Update(sum, castagnoli, z), crc32.Update(start, castagnoli, z)
		n -= int64(len(z))
	}
	return sum ^ start
}

// Salvage implements connector.Salvager.
func (c *committer) Salvage(ctx context.Context, state []byte, opts connector.SalvageOptions) (next []byte, beyond []string, err error) {
	st := sinkState{Dir: c.abs, List: c.newList()}
	if state != nil {
		if st, err = parseState(state); err != nil {
			return nil, nil, err
		}
	}
	there, err := c.there(ctx, st, opts.NewerGone)
	if err != nil || there == nil {
		return state, nil, err
	}
	for _, e := range there {
		for n := count(st.Parts, e.Split); n < e.N; n++ {
			beyond = append(beyond, partName(e.Split, n))
		}
	}
	st.Retired = nil // the checkpoint's own plan was carried out before anything else was published
	if !opts.Compare || len(st.Stale) > 0 {
		// If there are stale parts, the existing ones were to be replaced, and their run is not
		// known.
		st.Stale = widest(st.Stale, there)
	} else if err := c.compare(ctx, &st, there); err != nil {
		return nil, nil, err
	}
	next, err = json.Marshal(st)
	return next, beyond, err
}

// there returns the extents of the splits that have more parts than a state knows. Other files with
// names of parts are in the way, and the error names them.
func (c *committer) there(ctx context.Context, st sinkState, newer bool) ([]extent, error) {
	entries, err := c.fs.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("file: reading the folder %s: %w", c.dir, err)
	}
	told := widest(st.Parts, st.Stale)
	if !newer {
		// The checkpoint's own plan may still have to remove the retired parts.
		told = widest(told, st.Retired)
	}
	numbers := map[int][]int64{}
	more := false
	for _, e := range entries {
		if split, n, ok := parsePart(e.Name); ok && n >= count(st.Parts, split) {
			numbers[split] = append(numbers[split], n)
			more = more || n >= count(told, split)
		}
	}
	if !more {
		return nil, ctx.Err()
	}
	var all []extent
	var wrong []error
	for split, some := range numbers {
		slices.Sort(some)
		n := count(st.Parts, split)
		for _, k := range some {
			if k != n && len(st.Stale) == 0 {
				wrong = append(wrong, lost("file: %s is there and %s is not, so this job did not write it; move it away, then resume the job",
					filepath.Join(c.dir, partName(split, k)), partName(split, n)))
				break
			}
			n = k + 1
		}
		all = append(all, extent{split, n})
	}
	slices.SortFunc(all, func(a, b extent) int { return cmp.Compare(a.Split, b.Split) })
	slices.SortFunc(wrong, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return all, errors.Join(wrong...)
}

// compare adds the existing parts to those of the run. They are made again and compared.
func (c *committer) compare(ctx context.Context, st *sinkState, there []extent) error {
	for _, e := range there {
		n := count(st.Parts, e.Split)
		r := redo{Split: e.Split, First: n}
		if i := slices.IndexFunc(st.Redo, func(r redo) bool { return r.Split == e.Split }); i >= 0 {
			r = st.Redo[i]
			st.Redo = slices.Delete(st.Redo, i, i+1)
		}
		for ; n < e.N; n++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			name := partName(e.Split, n)
			var sum uint32
			size, err := c.inPieces(ctx, name, func(b []byte) {
				sum, r.Sum = crc32.Update(sum, castagnoli, b), crc32.Update(r.Sum, castagnoli, b)
			})
			if err != nil {
				return err
			}
			r.Bytes += size
			st.Recent += move{To: name, Bytes: size, Sum: fmt.Sprintf("%08x", sum)}.line()
		}
		st.Redo = append(st.Redo, r)
		st.Parts = widest(st.Parts, []extent{e})
	}
	return nil
}

// Unsettled implements connector.Salvager. It returns an error if, at the end of the input, some of
// the existing parts have not been made again.
func (c *committer) Unsettled(state []byte) error {
	st, err := parseState(state)
	if err != nil {
		return err
	}
	var wrong []error
	for _, r := range st.Redo {
		wrong = append(wrong, lost("file: the parts of split %d in %s, from %s on, have %d bytes, but the results that were made again have only %d: "+
			"another job wrote these parts, or this job has changed since; move them away and start afresh",
			r.Split, c.dir, partName(r.Split, r.First), r.Bytes, r.Done))
	}
	return errors.Join(wrong...)
}

// same compares the pending files of a plan with the existing parts, and returns those that settle
// must still handle. It returns an error if one differs.
func (c *committer) same(ctx context.Context, list []again) (todo []again, err error) {
	var wrong []error
	for _, a := range list {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if filepath.Base(a.From) != a.From || a.Bytes < 0 || a.At < 0 || a.To != nil && a.To.Bytes < 0 {
			return nil, fmt.Errorf("file: the sink's plan in the checkpoint is damaged: it would compare %q", a.From)
		}
		made, err := c.fs.Stat(filepath.Join(c.dir, a.From))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was handled before, and Check looks at everything that was published
		}
		if err != nil {
			return nil, fmt.Errorf("file: %w", err)
		}
		if size := a.Bytes + a.rest(); made.Size != size {
			wrong = append(wrong, lost("file: %s has %d bytes, but %d were synced; the disk has lost data, start afresh", filepath.Join(c.dir, a.From), made.Size, size))
			continue
		}
		todo = append(todo, a)
		if err := c.differs(ctx, a); err != nil {
			if _, told := errors.AsType[*lostError](err); !told {
				return nil, err
			}
			wrong = append(wrong, err)
		}
	}
	if wrong != nil {
		return nil, errors.Join(wrong...)
	}
	return todo, nil
}

// settle removes pending files that equal existing parts. If a pending file is longer than they
// are, its rest becomes a part first.
func (c *committer) settle(todo []again) error {
	for _, a := range todo {
		from := filepath.Join(c.dir, a.From)
		if a.To != nil {
			if err := c.behind(a, from, filepath.Join(c.dir, a.To.To)); err != nil {
				return fmt.Errorf("file: publishing: %w", err)
			}
		}
		if err := c.fs.Remove(from); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("file: removing a pending file that was compared: %w", err)
		}
	}
	return nil
}

// behind makes a part of the rest of a pending file, which follows the bytes that were compared.
func (c *committer) behind(a again, from, to string) error {
	made, err := c.fs.Open(from)
	if err != nil {
		return err
	}
	defer made.Close()
	if err := fsx.WriteFrom(c.fs, to, io.NewSectionReader(made, a.Bytes, a.rest())); err != nil {
		return err
	}
	return c.share(to)
}

func (a *again) rest() int64 {
	if a.To == nil {
		return 0
	}
	return a.To.Bytes
}
