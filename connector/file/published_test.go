package file

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/fsx"
)

// publish writes n parts, one a checkpoint.
func (o *opened) publish(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		o.write(t, raw(i%2, fmt.Sprintf("[%d]", 1000+i))...)
		if err := o.c.Commit(ctx, o.plan(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func (o *opened) check() error { return o.c.(connector.Checker).Check(ctx, o.state) }

// TestWhatIsGoneIsNoticed: any part of the run, of whichever checkpoint, with any length of the
// list.
func TestWhatIsGoneIsNoticed(t *testing.T) {
	const parts = 9
	for _, many := range []int{1, 2, 4, 9, 100} {
		for i := range parts {
			name := partName(i%2, int64(i/2))
			for what, c := range map[string]struct {
				upset func(o *opened, path string) error
				want  string
			}{
				"missing":   {func(o *opened, path string) error { return o.d.Remove(path) }, name + " is missing"},
				"cut short": {func(o *opened, path string) error { return fsx.WriteFile(o.d, path, []byte("[1")) }, name + " has 2 bytes and had 7"},
				"empty":     {func(o *opened, path string) error { return fsx.WriteFile(o.d, path, nil) }, name + " has 0 bytes and had 7"},
				"another":   {func(o *opened, path string) error { return fsx.WriteFile(o.d, path, []byte("[10000]\n")) }, name + " has 8 bytes and had 7"},
				"a folder":  {func(o *opened, path string) error { return errors.Join(o.d.Remove(path), o.d.Mkdir(path, fsx.Shared)) }, name + " is missing"},
			} {
				o := openSink(t, SinkConfig[json.RawMessage]{many: many})
				o.publish(t, parts)
				if err := o.check(); err != nil {
					t.Fatal(err)
				}
				if err := c.upset(o, filepath.Join("out", name)); err != nil {
					t.Fatal(err)
				}
				err := o.check()
				if err == nil || !strings.Contains(err.Error(), "in out has changed since it was published: "+c.want+"; put it back, or start afresh") {
					t.Errorf("list from %d lines on, part %d, %s: %v", many, i, what, err)
				}
				if async.VerdictOf(err).Class != async.Permanent {
					t.Errorf("%v would be tried again", err)
				}
			}
		}
	}
	o := openSink(t, SinkConfig[json.RawMessage]{})
	o.publish(t, parts)
	for i := range 5 {
		if err := o.d.Remove(filepath.Join("out", partName(0, int64(i)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.check(); err == nil || !strings.Contains(err.Error(), partName(0, 2)+" is missing and 2 more; put it back") {
		t.Errorf("five are missing: %v", err)
	}
}

// TestListIsNeeded: without the list it is not known whether the parts are unchanged.
func TestListIsNeeded(t *testing.T) {
	for what, upset := range map[string]func(o *opened, list string) error{
		"missing": func(o *opened, list string) error { return o.d.Remove(list) },
		"cut short": func(o *opened, list string) error {
			return fsx.WriteFile(o.d, list, o.d.Files("out")[filepath.Base(list)][1:])
		},
		"another": func(o *opened, list string) error { return fsx.WriteFile(o.d, list, []byte(strings.Repeat("x", 1000))) },
	} {
		o := openSink(t, SinkConfig[json.RawMessage]{many: 3})
		o.publish(t, 7)
		var st sinkState
		if err := json.Unmarshal(o.state, &st); err != nil || st.List.Bytes == 0 || st.Recent == "" {
			t.Fatal(string(o.state), err)
		}
		list := filepath.Join("out", st.List.Name)
		if err := upset(o, list); err != nil {
			t.Fatal(err)
		}
		if err := o.check(); err == nil || !strings.Contains(err.Error(), st.List.Name+", the list of the parts, is missing or is not what was written") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestConsumedParts: other programs may take parts away, but the remaining ones must be unchanged.
func TestConsumedParts(t *testing.T) {
	o := openSink(t, SinkConfig[json.RawMessage]{Consumed: true, many: 2})
	o.publish(t, 5)
	if err := o.d.Remove(filepath.Join("out", partName(0, 0))); err != nil {
		t.Fatal(err)
	}
	if err := o.check(); err != nil {
		t.Error(err)
	}
	o.write(t, raw(0, "[1]")...)
	plan := o.plan(t)
	for range 2 {
		if err := o.c.Commit(ctx, plan); err != nil {
			t.Fatal(err)
		}
		if err := o.d.Remove(filepath.Join("out", partName(0, 3))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	o.publish(t, 1)
	if _, there := o.d.Files("out")[partName(0, 0)]; there {
		t.Error("the name of a part that was taken was used again")
	}
	if err := fsx.WriteFile(o.d, filepath.Join("out", partName(1, 0)), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := o.check(); err == nil || !strings.Contains(err.Error(), "has 1 bytes and had 7") {
		t.Errorf("a part that was cut short: %v", err)
	}
}

// TestStateDoesNotGrow: a checkpoint of a run with very many parts is as large as that of one with
// a few.
func TestStateDoesNotGrow(t *testing.T) {
	o := openSink(t, SinkConfig[json.RawMessage]{})
	pending := func(n int) []connector.Pending {
		data, err := json.Marshal(pendingForm{Name: fmt.Sprintf("%sx-%d", pendingPrefix, n), Bytes: 1 << 20, Sum: "01234567"})
		if err != nil {
			t.Fatal(err)
		}
		return []connector.Pending{{Split: 3, Data: data}}
	}
	state, most, lines := o.state, 0, 0
	for n := range 100_000 {
		next, plan, err := o.c.Plan(state, pending(n))
		if err != nil {
			t.Fatal(err)
		}
		state = next
		var p sinkPlan
		if err := json.Unmarshal(plan, &p); err != nil {
			t.Fatal(err)
		}
		if p.Append != nil {
			lines += strings.Count(p.Append.Lines, "\n")
		}
		most = max(most, len(state)+len(plan))
	}
	if most > 5000 || lines < 100_000-manyRecent {
		t.Errorf("state and plan have up to %d bytes, %d lines went to the list", most, lines)
	}
}

// TestRunsOfEarlierVersions: the parts that they have published are in no list. Their absence is
// noticed all the same.
func TestRunsOfEarlierVersions(t *testing.T) {
	o := openSink(t, SinkConfig[json.RawMessage]{many: 2})
	o.publish(t, 4)
	var st sinkState
	if err := json.Unmarshal(o.state, &st); err != nil {
		t.Fatal(err)
	}
	if err := o.d.Remove(filepath.Join("out", st.List.Name)); err != nil {
		t.Fatal(err)
	}
	o.state = fmt.Appendf(nil, `{"dir":%q,"parts":[{"split":0,"n":2},{"split":1,"n":2}]}`, st.Dir)
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	o.publish(t, 5)
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{partName(0, 0): " is missing", partName(0, 3): " is missing"} {
		was := o.d.Files("out")[name]
		if err := o.d.Remove(filepath.Join("out", name)); err != nil {
			t.Fatal(err)
		}
		if err := o.check(); err == nil || !strings.Contains(err.Error(), name+want) {
			t.Errorf("%s: %v", name, err)
		}
		if err := fsx.WriteFile(o.d, filepath.Join("out", name), was); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGoingBackCutsTheList: the lines for parts that are replaced are removed from the list.
func TestGoingBackCutsTheList(t *testing.T) {
	o := openSink(t, SinkConfig[json.RawMessage]{many: 2})
	o.publish(t, 5)
	before := o.state
	o.publish(t, 6)
	var err error
	if o.state, err = o.c.(connector.Rewinder).Rewind(before, o.state); err != nil {
		t.Fatal(err)
	}
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	for i := range 7 {
		o.write(t, raw(i%2, fmt.Sprintf("%d", i))...) // of other sizes
		if err := o.c.Commit(ctx, o.plan(t)); err != nil {
			t.Fatal(err)
		}
		if err := o.check(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestListsOfEarlierRunsGo with their parts; those of other jobs stay.
func TestListsOfEarlierRunsGo(t *testing.T) {
	o := openSink(t, SinkConfig[json.RawMessage]{many: 1, Job: "a"})
	o.publish(t, 3)
	other := filepath.Join("out", listsOf("b")+"1")
	if err := fsx.WriteFile(o.d, other, nil); err != nil {
		t.Fatal(err)
	}
	lists := func() (all []string) {
		for name := range maps.Keys(o.d.Files("out")) {
			if strings.HasPrefix(name, listPrefix) {
				all = append(all, name)
			}
		}
		slices.Sort(all)
		return all
	}
	first := lists()
	var err error
	if o.state, err = o.c.Begin(ctx, o.state); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(lists(), first) || len(first) != 2 {
		t.Errorf("the run before lost its list before its parts: %v, %v", first, lists())
	}
	o.publish(t, 1)
	if now := lists(); len(now) != 2 || slices.Equal(now, first) || !slices.Contains(now, filepath.Base(other)) {
		t.Errorf("the lists were %v and are %v", first, now)
	}
	if err := o.check(); err != nil {
		t.Error(err)
	}
}

func TestVerifyParts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	o := &opened{}
	s := NewSink(SinkConfig[json.RawMessage]{Encode: RawLine, Dir: dir, many: 2, MaxOpen: 1})
	var err error
	if o.c, err = s.Committer(ctx); err != nil {
		t.Fatal(err)
	}
	if o.state, err = o.c.Begin(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if o.w, err = s.Open(ctx, async.Subtask{}); err != nil {
		t.Fatal(err)
	}
	defer o.w.Close()
	var plan []byte
	for i := range 4 {
		for range 3 { // in several turns, with other files between them
			o.write(t, raw(0, fmt.Sprint(100+i))...)
			o.write(t, raw(1, `"`+strings.Repeat("x", writeBuffer)+`"`)...)
		}
		if plan = o.plan(t); i < 3 {
			if err := o.c.Commit(ctx, plan); err != nil {
				t.Fatal(err)
			}
		}
	}
	verify := func(want Verified) {
		t.Helper()
		want.Dir = dir
		got, ours, err := VerifyParts(ctx, o.state, plan)
		if err != nil || !ours || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%+v, %v, %v; want %+v", got, ours, err, want)
		}
	}
	whole := Verified{Parts: 8, Bytes: 4 * 3 * (4 + writeBuffer + 3)}
	pending := whole
	pending.Pending = 2
	verify(pending)
	if err := o.c.Commit(ctx, plan); err != nil {
		t.Fatal(err)
	}
	verify(whole)
	name := filepath.Join(dir, partName(0, 1))
	if err := os.WriteFile(name, []byte("101\n101\n102\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.check(); err != nil {
		t.Errorf("the sizes are the same: %v", err)
	}
	less := Verified{Parts: 7, Bytes: whole.Bytes - 12, Wrong: []string{name + " is not what was written: its checksum differs"}}
	verify(less)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	less.Wrong = []string{name + " is missing"}
	verify(less)
	for _, state := range []string{"", "12345678", "0", "{}"} {
		if _, ours, err := VerifyParts(ctx, []byte(state), nil); ours || err != nil {
			t.Errorf("the state %q passes for one of part files: %v", state, err)
		}
	}
}
