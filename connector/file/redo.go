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

	"github.com/tensorferry/tensorferry/internal/fsx"
)

// When checkpoints are damaged or gone, parts are there that no checkpoint tells of. A job whose
// results are always the same goes on all the same: what was published stays where it is, the
// results are made again, and each is compared with what is there, byte by byte, until there is
// nothing left to compare with. Where parts were cut the first time does not matter.

// redo says of a split which of its parts are being made again.
type redo struct {
	Split int `json:"split"`
	// The parts from First on are compared; they have so many bytes together, with that
	// checksum.
	First int64  `json:"first"`
	Bytes int64  `json:"bytes"`
	Sum   uint32 `json:"sum"`
	// Done is how many of the bytes have been made again, and DoneSum their checksum.
	Done    int64  `json:"done,omitempty"`
	DoneSum uint32 `json:"doneSum,omitempty"`
}

// again is a pending file of which the first Bytes are to be what the parts of a split have from At
// on, the first of these parts being First.
type again struct {
	From  string `json:"from"`
	Split int    `json:"split"`
	First int64  `json:"first"`
	At    int64  `json:"at"`
	Bytes int64  `json:"bytes"`
	// To, if set, is the part that the rest of the pending file becomes.
	To *move `json:"to,omitempty"`
}

// take compares a pending file with what is there of its split, as far as there is something. more
// says that the file goes on behind that, as a part of its own, of that size and checksum.
func (r *redo) take(f pendingForm, sum uint32) (a again, more bool, size int64, rest uint32) {
	same := min(f.Bytes, r.Bytes-r.Done)
	a = again{From: f.Name, Split: r.Split, First: r.First, At: r.Done, Bytes: same}
	r.DoneSum = joined(r.DoneSum, sum, f.Bytes)
	r.Done += same
	size = f.Bytes - same
	return a, size > 0, size, r.DoneSum ^ shifted(r.Sum, size)
}

// joined returns the checksum of bytes that are followed by others, of which there are n.
func joined(first, second uint32, n int64) uint32 { return shifted(first, n) ^ second }

// shifted is what a checksum adds to that of the n bytes that follow: it runs on over them as over
// so many zeros.
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
func (c *committer) Salvage(ctx context.Context, state []byte, newer, compare bool) (next []byte, beyond []string, err error) {
	st := sinkState{Dir: c.abs, List: c.newList()}
	if state != nil {
		if st, err = parseState(state); err != nil {
			return nil, nil, err
		}
	}
	there, err := c.there(ctx, st, newer)
	if err != nil || there == nil {
		return state, nil, err
	}
	for _, e := range there {
		for n := count(st.Parts, e.Split); n < e.N; n++ {
			beyond = append(beyond, partName(e.Split, n))
		}
	}
	st.Retired = nil // the checkpoint's own plan was carried out before anything else was published
	if !compare || len(st.Stale) > 0 {
		// The latter: what is there was to be replaced, and nobody knows of which run it
		// is.
		st.Stale = widest(st.Stale, there)
	} else if err := c.compare(ctx, &st, there); err != nil {
		return nil, nil, err
	}
	next, err = json.Marshal(st)
	return next, beyond, err
}

// there returns how many parts of each split are there, of those splits of which there are more
// than a state tells of. Others that look like parts are in the way, and an error that names them.
func (c *committer) there(ctx context.Context, st sinkState, newer bool) ([]extent, error) {
	entries, err := c.fs.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("file: reading the folder %s: %w", c.dir, err)
	}
	told := widest(st.Parts, st.Stale)
	if !newer {
		// The checkpoint's own plan may still have to take them away.
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
				wrong = append(wrong, lost("file: %s is there and %s is not, so it is not this job's; move it away, and resume",
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

// compare makes the parts that are there ones of the run, which are made again and compared.
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

// Unsettled implements connector.Salvager: at the end of the input everything that was there has
// been made again.
func (c *committer) Unsettled(state []byte) error {
	st, err := parseState(state)
	if err != nil {
		return err
	}
	var wrong []error
	for _, r := range st.Redo {
		wrong = append(wrong, lost("file: the parts of split %d in %s, from %s on, have %d bytes, and the results that were made again only %d: "+
			"the job is not the one that wrote them, or they are not its own; move them away and start afresh",
			r.Split, c.dir, partName(r.Split, r.First), r.Bytes, r.Done))
	}
	return errors.Join(wrong...)
}

// same says which of the pending files of a plan are still to be compared and done with, and that
// those that are begin as what is there.
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
			continue // done before; what has become of it is checked with all that was published
		}
		if err != nil {
			return nil, fmt.Errorf("file: %w", err)
		}
		if size := a.Bytes + a.rest(); made.Size != size {
			wrong = append(wrong, lost("file: %s has %d bytes and %d were synced; the disk has lost data, start afresh", filepath.Join(c.dir, a.From), made.Size, size))
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

// settle does away with pending files that are what is there, and makes parts of what goes on
// behind that.
func (c *committer) settle(todo []again) error {
	for _, a := range todo {
		from := filepath.Join(c.dir, a.From)
		if a.To != nil {
			if err := c.behind(a, from, filepath.Join(c.dir, a.To.To)); err != nil {
				return fmt.Errorf("file: publishing: %w", err)
			}
		}
		if err := c.fs.Remove(from); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("file: removing what was made again: %w", err)
		}
	}
	return nil
}

// behind makes a part of what a pending file has behind what was compared.
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
