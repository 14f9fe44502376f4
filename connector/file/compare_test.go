package file

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/fsx"
	"github.com/tensorferry/tensorferry/internal/simfs"
)

// counted is a disk that counts what is read of part files and pending ones.
type counted struct {
	fsx.FS
	bytes, peak, stats int64
}

func (c *counted) read(name string, n int) {
	if !strings.Contains(name, listPrefix) {
		c.bytes, c.peak = c.bytes+int64(n), max(c.peak, int64(n))
	}
}

func (c *counted) ReadFile(name string) ([]byte, error) {
	b, err := c.FS.ReadFile(name)
	c.read(name, len(b))
	return b, err
}

func (c *counted) Stat(name string) (fsx.Entry, error) {
	c.stats++
	return c.FS.Stat(name)
}

func (c *counted) Open(name string) (fsx.Reader, error) {
	r, err := c.FS.Open(name)
	return countedReader{r, name, c}, err
}

type countedReader struct {
	fsx.Reader
	name string
	of   *counted
}

func (r countedReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(p, off)
	r.of.read(r.name, n)
	return n, err
}

// TestComparingIsLinear: however many parts there are, of whatever size, and however many commits
// make them again, each byte is read a few times, and little of it is in memory.
func TestComparingIsLinear(t *testing.T) {
	for _, c := range []struct {
		name                      string
		parts, lines, length, cut int
	}{
		{"many parts and many commits", 200, 10, 100, 10},
		{"many parts and one commit", 200, 10, 100, 4000},
		{"one part and many commits", 1, 2000, 100, 10},
		{"large parts", 3, 20, 50_000, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := &counted{FS: simfs.New()}
			o := openSink(t, SinkConfig[json.RawMessage]{fs: disk})
			before := o.state
			n := 0
			some := func(k int) {
				t.Helper()
				for range k {
					o.write(t, raw(0, strings.Repeat("7", c.length)+fmt.Sprint(n))...)
					n++
				}
				if err := o.c.Commit(ctx, o.plan(t)); err != nil {
					t.Fatal(err)
				}
			}
			for range c.parts {
				some(c.lines)
			}
			all := n
			size := int64(all * (c.length + 4)) // about
			*disk = counted{FS: disk.FS}
			var beyond []string
			var err error
			if o.state, beyond, err = o.c.(connector.Salvager).Salvage(ctx, before, connector.SalvageOptions{NewerGone: true, Compare: true}); err != nil || len(beyond) != c.parts {
				t.Fatal(beyond, err)
			}
			commits := 0
			for n = 0; n < all+3; commits++ { // the last one goes on behind what is there
				some(min(c.cut, all+3-n))
			}
			if err := o.c.(connector.Salvager).Unsettled(o.state); err != nil {
				t.Error(err)
			}
			// For the checksums, to be compared with, and to compare.
			if disk.bytes > 4*size || disk.bytes < 2*size {
				t.Errorf("%d bytes were read; there are about %d", disk.bytes, size)
			}
			if disk.peak > piece {
				t.Errorf("%d bytes were read at once", disk.peak)
			}
			if most := int64(2*c.parts + 10*commits + 10); disk.stats > most {
				t.Errorf("%d files were looked at; want at most %d for %d parts and %d commits", disk.stats, most, c.parts, commits)
			}
		})
	}
}
