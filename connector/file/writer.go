package file

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"path/filepath"
	"slices"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/fsx"
)

const writeBuffer = 64 << 10

// writer writes the records of one subtask into pending files, one for each split since the last
// Prepare.
type writer[T any] struct {
	fs      fsx.FS
	dir     string
	prefix  string // of pending names
	encode  Encode[T]
	maxOpen int

	seq   int
	parts map[int]*part   // by split
	open  []*part         // the parts whose files are open, the last used last
	spare []*bufio.Writer // buffers of closed files, to be used again
	// failed is the first error of the disk. After it the content of the files is not known, so
	// nothing can be prepared.
	failed error
}

// part is a pending file.
type part struct {
	split int
	name  string
	size  int64
	sum   uint32 // of the bytes
	// f and buf are nil while the file is closed to make room for others.
	f   fsx.File
	buf *bufio.Writer
}

// Write takes bytes from the buffer.
func (p *part) Write(b []byte) (int, error) {
	n, err := p.f.Write(b)
	p.size += int64(n)
	p.sum = crc32.Update(p.sum, castagnoli, b[:n])
	return n, err
}

// pendingForm describes a pending file in a checkpoint.
type pendingForm struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	Sum   string `json:"sum"`
}

// Write implements connector.Writer.
func (w *writer[T]) Write(recs []async.Record[T]) error {
	if w.failed != nil {
		return w.failed
	}
	for i := range recs {
		r := &recs[i]
		p, err := w.part(r.Split)
		if err != nil {
			return w.fail(err)
		}
		line, err := lineOf(w.encode, r)
		if err != nil {
			return w.fail(err) // the whole job fails, so the lines before it do not matter
		}
		_, _ = p.buf.Write(line) // the buffer keeps an error for the next call
		if err := p.buf.WriteByte('\n'); err != nil {
			return w.fail(fmt.Errorf("file: writing %s: %w", filepath.Join(w.dir, p.name), err))
		}
	}
	return nil
}

func (w *writer[T]) fail(err error) error {
	if w.failed == nil {
		w.failed = err
	}
	return w.failed
}

// part returns the open pending file of a split.
func (w *writer[T]) part(split int) (*part, error) {
	if n := len(w.open); n > 0 && w.open[n-1].split == split {
		return w.open[n-1], nil
	}
	p := w.parts[split]
	if p == nil {
		p = &part{split: split, name: fmt.Sprintf("%s%d-%d%s", w.prefix, split, w.seq, partSuffix)}
	}
	if p.f != nil {
		i := slices.Index(w.open, p)
		w.open = append(slices.Delete(w.open, i, i+1), p)
		return p, nil
	}
	if len(w.open) >= w.maxOpen {
		oldest := w.open[0]
		if err := w.release(oldest, false); err != nil {
			return nil, err
		}
		w.open = slices.Delete(w.open, 0, 1)
	}
	if err := w.acquire(p); err != nil {
		return nil, err
	}
	w.open = append(w.open, p)
	return p, nil
}

// acquire opens a part's file, and makes it the first time.
func (w *writer[T]) acquire(p *part) (err error) {
	name := filepath.Join(w.dir, p.name)
	if w.parts[p.split] == nil {
		if p.f, err = w.fs.Create(name); err == nil {
			w.parts[p.split] = p
			w.seq++
		}
	} else {
		p.f, err = w.fs.Append(name)
	}
	if err != nil {
		p.f = nil
		return fmt.Errorf("file: opening a pending file: %w", err)
	}
	if n := len(w.spare); n > 0 {
		p.buf, w.spare = w.spare[n-1], w.spare[:n-1]
	} else {
		p.buf = bufio.NewWriterSize(nil, writeBuffer)
	}
	p.buf.Reset(p)
	return nil
}

// release writes a part's buffer out and closes its file, after a sync if sync is true.
func (w *writer[T]) release(p *part, sync bool) error {
	err := p.buf.Flush()
	if err == nil && sync {
		err = p.f.Sync()
	}
	if cerr := p.f.Close(); err == nil {
		err = cerr
	}
	w.spare = append(w.spare, p.buf)
	p.f, p.buf = nil, nil
	if err != nil {
		return fmt.Errorf("file: writing %s: %w", filepath.Join(w.dir, p.name), err)
	}
	return nil
}

// Prepare implements connector.Writer.
func (w *writer[T]) Prepare(ctx context.Context, _ int64) ([]connector.Pending, error) {
	if w.failed != nil {
		return nil, w.failed
	}
	if len(w.parts) == 0 {
		return nil, nil
	}
	pending := make([]connector.Pending, 0, len(w.parts))
	for _, split := range slices.Sorted(maps.Keys(w.parts)) {
		if err := ctx.Err(); err != nil {
			return nil, w.fail(err)
		}
		p := w.parts[split]
		if p.f == nil {
			// It was closed to make room and is not synced yet.
			if err := w.acquire(p); err != nil {
				return nil, w.fail(err)
			}
		} else {
			w.open = slices.DeleteFunc(w.open, func(o *part) bool { return o == p })
		}
		if err := w.release(p, true); err != nil {
			return nil, w.fail(err)
		}
		data, err := json.Marshal(pendingForm{Name: p.name, Bytes: p.size, Sum: fmt.Sprintf("%08x", p.sum)})
		if err != nil {
			return nil, w.fail(err)
		}
		pending = append(pending, connector.Pending{Split: split, Data: data})
	}
	if err := w.fs.SyncDir(w.dir); err != nil {
		return nil, w.fail(fmt.Errorf("file: syncing the folder %s: %w", w.dir, err))
	}
	// From here on the files belong to the checkpoint, and the writer must not remove them.
	clear(w.parts)
	return pending, nil
}

// Close implements connector.Writer.
func (w *writer[T]) Close() error {
	var errs []error
	for _, split := range slices.Sorted(maps.Keys(w.parts)) {
		p := w.parts[split]
		if p.f != nil {
			p.f.Close() // the file is removed, so an error does not matter
		}
		if err := w.fs.Remove(filepath.Join(w.dir, p.name)); err != nil {
			errs = append(errs, fmt.Errorf("file: removing a pending file that was not published: %w", err))
		}
	}
	clear(w.parts)
	w.open, w.spare = nil, nil
	_ = w.fail(errors.New("file: the writer is closed"))
	return errors.Join(errs...)
}
