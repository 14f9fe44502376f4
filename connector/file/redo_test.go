package file

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/fsx"
	"github.com/tensorferry/tensorferry/internal/simfs"
)

// remade is a sink that has published more than its checkpoint says, with all of its results.
type remade struct {
	*opened
	values []string
	next   int // of values
}

// step publishes the next n values as one checkpoint, dealt out to two splits.
func (r *remade) step(t *testing.T, n int) error {
	t.Helper()
	for ; n > 0 && r.next < len(r.values); n-- {
		r.write(t, raw(r.next%2, r.values[r.next])...)
		r.next++
	}
	return r.c.Commit(ctx, r.plan(t))
}

func (r *remade) want(split int) string {
	var b strings.Builder
	for i := split; i < r.next; i += 2 {
		b.WriteString(r.values[i] + "\n")
	}
	return b.String()
}

// goBack makes a sink that goes on from a checkpoint of 5 of 20 values, behind which the parts of
// 15 more were published, a checkpoint each.
func goBack(t *testing.T, compare bool) *remade {
	t.Helper()
	r := &remade{opened: openSink(t, SinkConfig[json.RawMessage]{many: 4})}
	for i := range 40 {
		r.values = append(r.values, strings.Repeat("7", 1+i*i%17)+fmt.Sprint(100+i))
	}
	if err := r.step(t, 5); err != nil {
		t.Fatal(err)
	}
	before := r.state
	for range 15 {
		if err := r.step(t, 1); err != nil {
			t.Fatal(err)
		}
	}
	var beyond []string
	var err error
	if r.state, beyond, err = r.c.(connector.Salvager).Salvage(ctx, before, connector.SalvageOptions{NewerGone: true, Compare: compare}); err != nil || len(beyond) != 15 {
		t.Fatalf("%v, %v", beyond, err)
	}
	r.next = 5
	return r
}

// whole checks that the parts of each split hold the results so far, or the parts that existed if
// those are more. It also checks that their recorded sizes and checksums are right.
func (r *remade) whole(t *testing.T, least int) {
	t.Helper()
	if err := r.check(); err != nil {
		t.Error(err)
	}
	st, err := parseState(r.state)
	if err != nil {
		t.Fatal(err)
	}
	known, err := r.c.(*committer).known(st, nil)
	if err != nil {
		t.Fatal(err)
	}
	next := r.next
	r.next = max(next, least)
	defer func() { r.next = next }()
	for split := range 2 {
		var got strings.Builder
		for _, name := range r.files() {
			if of, _, ok := parsePart(name); ok && of == split {
				b := r.d.Files("out")[name]
				got.Write(b)
				if sum := fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)); known[name] != (partInfo{true, int64(len(b)), sum}) {
					t.Errorf("of %s, of %d bytes and checksum %s, is kept %+v", name, len(b), sum, known[name])
				}
			}
		}
		if got.String() != r.want(split) {
			t.Errorf("split %d is\n%s; want\n%s", split, got.String(), r.want(split))
		}
	}
}

// TestRemadePartsAreCompared: wherever parts are cut, the existing ones stay, and the results after
// them are added.
func TestRemadePartsAreCompared(t *testing.T) {
	for cut := 1; cut <= 36; cut++ {
		r := goBack(t, true)
		for r.next < len(r.values) {
			settled := r.c.(connector.Salvager).Unsettled(r.state)
			if (settled == nil) != (r.next >= 20) {
				t.Errorf("cut %d, at %d: %v", cut, r.next, settled)
			}
			if err := r.step(t, cut); err != nil {
				t.Fatalf("cut %d, at %d: %v", cut, r.next, err)
			}
			r.whole(t, 20)
		}
	}
}

// TestRemadePartsAndAnyCrash: a plan that compares can be carried out again after a crash at any of
// its operations.
func TestRemadePartsAndAnyCrash(t *testing.T) {
	for _, cut := range []int{3, 15, 18, 30} {
		for at := 1; ; at++ {
			r := goBack(t, true)
			for r.next < 20 && cut == 3 {
				if err := r.step(t, cut); err != nil {
					t.Fatal(err)
				}
			}
			for range cut {
				r.write(t, raw(r.next%2, r.values[r.next])...)
				r.next++
			}
			plan := r.plan(t)
			r.d.CrashAt(at)
			err := r.c.Commit(ctx, plan)
			if !r.d.Crashed() {
				if err != nil {
					t.Error(err)
				}
				break
			}
			for name, next := range map[string]*simfs.Disk{"killed": r.d.Kill(), "power loss": r.d.PowerLoss(rand.Uint64())} {
				again := &remade{opened: &opened{d: next, state: r.state}, values: r.values, next: r.next}
				again.c, err = NewSink(SinkConfig[json.RawMessage]{Encode: RawLine, Dir: "out", fs: next, many: 4}).Committer(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if err := again.c.Commit(ctx, plan); err != nil {
					t.Fatalf("cut %d, %s at operation %d: %v", cut, name, at, err)
				}
				if err := again.c.Clean(ctx); err != nil {
					t.Fatal(err)
				}
				again.whole(t, 20)
				for _, f := range again.files() {
					if strings.HasPrefix(f, pendingPrefix) || strings.HasPrefix(f, fsx.TempPrefix) {
						t.Errorf("cut %d, %s at operation %d: %s is left", cut, name, at, f)
					}
				}
			}
		}
	}
}

// TestRemadePartsThatDiffer: an error names the file of each difference, and nothing has changed.
func TestRemadePartsThatDiffer(t *testing.T) {
	for name, c := range map[string]struct {
		upset func(r *remade) error
		want  string
	}{
		"a digit":       {func(r *remade) error { r.values[6] = "8" + r.values[6][1:]; return nil }, "part-00000-00001.jsonl is not what the job makes now, from byte 0 on"},
		"another part":  {func(r *remade) error { return fsx.WriteFile(r.d, "out/part-00001-00007.jsonl", []byte("0\n")) }, "part-00001-00007.jsonl"},
		"a part less":   {func(r *remade) error { return r.d.Remove(filepath.Join("out", "part-00001-00003.jsonl")) }, "part-00001-00003.jsonl"},
		"in the way":    {func(r *remade) error { return fsx.WriteFile(r.d, "out/part-00001-00009.jsonl", []byte("0\n")) }, "part-00001-00009.jsonl exists and this job did not write it"},
		"pending bytes": {nil, "the disk has lost data"},
	} {
		r := goBack(t, true)
		if c.upset != nil {
			if err := c.upset(r); err != nil {
				t.Fatal(err)
			}
		}
		for range 30 {
			r.write(t, raw(r.next%2, r.values[r.next])...)
			r.next++
		}
		plan := r.plan(t)
		if c.upset == nil {
			for _, f := range r.files() {
				if strings.HasPrefix(f, pendingPrefix) {
					if err := fsx.WriteFile(r.d, filepath.Join("out", f), nil); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		before := fmt.Sprint(r.d.Files("out"))
		err := r.c.Commit(ctx, plan)
		if err == nil || async.VerdictOf(err).Class != async.Permanent || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
		if after := fmt.Sprint(r.d.Files("out")); after != before {
			t.Errorf("%s: the folder has changed", name)
		}
	}
}

// TestPartsBehindACheckpoint: they are replaced if they are not to be compared, and what is not the
// job's is named.
func TestPartsBehindACheckpoint(t *testing.T) {
	r := goBack(t, false)
	for r.next < len(r.values) {
		if err := r.step(t, 11); err != nil {
			t.Fatal(err)
		}
		r.whole(t, 0)
	}
	s := r.c.(connector.Salvager)
	if next, beyond, err := s.Salvage(ctx, r.state, connector.SalvageOptions{Compare: true}); err != nil || beyond != nil || string(next) != string(r.state) {
		t.Errorf("nothing is there: %s, %v, %v", next, beyond, err)
	}
	if err := fsx.WriteFile(r.d, "out/part-00001-00099.jsonl", []byte("0\n")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Salvage(ctx, r.state, connector.SalvageOptions{Compare: true}); err == nil || !strings.Contains(err.Error(), "part-00001-00099.jsonl is there and") {
		t.Errorf("a part out of turn: %v", err)
	}
}
