package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/tensorferry/tensorferry/internal/fsx"
)

// Parts may have any size and any number. They are compared in pieces. Each commit goes on at the
// part where the commit before ended, so every byte is read once, however many commits it takes.

// piece is how much of a file is in memory.
const piece = 64 << 10

// reached says how far a split was compared: up to part. before is the number of bytes of the parts
// from first to that one.
type reached struct{ first, part, before int64 }

// differs compares the results in a pending file that were made again with the existing parts. It
// compares the rest of the file with the part that it becomes, if that exists. It returns an error
// if they differ.
func (c *committer) differs(ctx context.Context, a again) error {
	made, err := c.fs.Open(filepath.Join(c.dir, a.From))
	if err != nil {
		return fmt.Errorf("file: %w", err)
	}
	defer made.Close()
	r, ok := c.reached[a.Split]
	if !ok || r.first != a.First || r.before > a.At {
		r = reached{first: a.First, part: a.First}
	}
	for done := int64(0); done < a.Bytes; {
		name := filepath.Join(c.dir, partName(a.Split, r.part))
		e, err := c.fs.Stat(name)
		if err != nil {
			return lost("file: %v: this part was published, and the job must compare it with the results that it makes again; put it back, or start afresh", err)
		}
		at := a.At + done - r.before // in the part
		if at >= e.Size {
			r.part, r.before = r.part+1, r.before+e.Size
			continue
		}
		n := min(a.Bytes-done, e.Size-at)
		same, err := c.alike(ctx, made, done, name, at, n)
		if err != nil {
			return err
		}
		if same < n {
			return lost("file: %s is not what the job makes now, from byte %d on. The checkpoint of these results is damaged or gone, so they may come from another job or model. "+
				"Find out which results are right; then go back with --from, which replaces the published ones, or start afresh", name, at+same)
		}
		done += n
	}
	if c.reached == nil {
		c.reached = map[int]reached{}
	}
	c.reached[a.Split] = r
	if a.To == nil {
		return nil
	}
	name := filepath.Join(c.dir, a.To.To)
	e, err := c.fs.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("file: %w", err)
	}
	same := int64(-1)
	if e.Size == a.rest() {
		if same, err = c.alike(ctx, made, a.Bytes, name, 0, e.Size); err != nil {
			return err
		}
	}
	if same != a.rest() {
		return lost("file: %s exists and this job did not write it; move it away, then resume the job", name)
	}
	return nil
}

// alike compares n bytes of two files: made, beginning at from, and the file name, beginning at at.
// It returns how many are the same before the first difference.
func (c *committer) alike(ctx context.Context, made fsx.Reader, from int64, name string, at, n int64) (same int64, err error) {
	there, err := c.fs.Open(name)
	if err != nil {
		return 0, fmt.Errorf("file: %w", err)
	}
	defer there.Close()
	x, y := make([]byte, min(n, piece)), make([]byte, min(n, piece))
	for same < n {
		if err := ctx.Err(); err != nil {
			return same, err
		}
		k := min(n-same, piece)
		for _, one := range []struct {
			of  fsx.Reader
			at  int64
			buf []byte
		}{{made, from + same, x[:k]}, {there, at + same, y[:k]}} {
			if m, err := one.of.ReadAt(one.buf, one.at); int64(m) < k {
				return same, fmt.Errorf("file: comparing with %s: %w", name, err)
			}
		}
		if !bytes.Equal(x[:k], y[:k]) {
			for i := range k {
				if x[i] != y[i] {
					return same + i, nil
				}
			}
		}
		same += k
	}
	return same, nil
}

// inPieces reads a file of the folder, passes it to f in pieces, and returns its size.
func (c *committer) inPieces(ctx context.Context, name string, f func([]byte)) (size int64, err error) {
	file, err := c.fs.Open(filepath.Join(c.dir, name))
	if err != nil {
		return 0, fmt.Errorf("file: %w", err)
	}
	defer file.Close()
	buf := make([]byte, piece)
	for {
		if err := ctx.Err(); err != nil {
			return size, err
		}
		n, err := file.ReadAt(buf, size)
		f(buf[:n])
		size += int64(n)
		if err == io.EOF {
			return size, nil
		}
		if err != nil {
			return size, fmt.Errorf("file: %w", err)
		}
	}
}
