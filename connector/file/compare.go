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

// Parts may have any size, and there may be any number of them. They are compared in pieces, and
// each commit goes on at the part where the one before ended: every byte is read once, however
// many commits it takes.

// piece is how much of a file is in memory.
const piece = 64 << 10

// reached is the part up to which a split was compared. Before lies what the parts from First on
// have before it.
type reached struct{ first, part, before int64 }

// differs compares what a pending file has made again with what is there, and what it has behind
// that with the part that it becomes, if that is there.
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
			return lost("file: %v: it was published, and the job must compare it with the results that it makes again; put it back, or start afresh", err)
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
			return lost("file: %s is not what the job makes now, from byte %d on: its checkpoint was damaged or gone, and what was published behind it cannot be told from results of another job or model. "+
				"See which of them are right; then go back with --from, which replaces them, or start afresh", name, at+same)
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
		return lost("file: %s exists and this job did not write it; move it away, and resume", name)
	}
	return nil
}

// alike returns how many of n bytes are the same in both files: in made from from on, and in the
// one with a name from at on.
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

// inPieces reads a file of the folder, and returns its size.
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
