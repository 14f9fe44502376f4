package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

func openStdin(t *testing.T, in *os.File) (*Stdin[json.RawMessage], connector.Split, connector.Reader[json.RawMessage]) {
	t.Helper()
	s := NewStdin(StdinConfig[json.RawMessage]{Decode: Raw, Input: in})
	splits, err := s.Splits(ctx)
	if err != nil || len(splits) != 1 {
		t.Fatalf("%v, %v", splits, err)
	}
	r, err := s.Open(ctx, splits[0], splits[0].Start)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return s, splits[0], r
}

// Each line comes as soon as it is there; the reader does not wait for more.
func TestStdin(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	s, split, r := openStdin(t, in)
	for _, part := range []string{"\ufeff{\"a\":1}\n\n", "2\r\n3\n{\"cut\"", ":4}\n"} {
		if _, err := io.WriteString(out, part); err != nil {
			t.Fatal(err)
		}
		recs, _, err := r.Read(ctx, nil, 10)
		if err != nil || len(recs) == 0 {
			t.Fatalf("after %q: %v, %v", part, recs, err)
		}
	}
	if _, err := io.WriteString(out, "5"); err != nil {
		t.Fatal(err)
	}
	out.Close()
	recs, next, err := r.Read(ctx, nil, 10)
	if err == nil { // the end may come with the last line or behind it
		recs, next, err = r.Read(ctx, recs, 10)
	}
	if err != io.EOF || !slices.Equal(texts(recs), []string{"5"}) || next != 28 || recs[0].Position != 27 {
		t.Errorf("%q, next %d, %v", texts(recs), next, err)
	}
	for name, err := range map[string]error{
		"resume":  s.Verify(ctx, []connector.Split{split}, []int64{3}),
		"restart": func() error { _, err := s.Open(ctx, split, 0); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), name) || async.VerdictOf(err).Class != async.Permanent {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A read that waits for input ends with its context and leaves nothing behind.
func TestStdinStopsWaiting(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	_, _, r := openStdin(t, in)
	stopped, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() {
		_, _, err := r.Read(stopped, nil, 10)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestStdinNamesTheBadLine(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	_, _, r := openStdin(t, in)
	io.WriteString(out, "{}\n\n{]\n")
	out.Close()
	recs, _, err := r.Read(ctx, nil, 10)
	if err == nil {
		recs, _, err = r.Read(ctx, recs, 10)
	}
	if len(recs) != 1 || err == nil || !strings.Contains(err.Error(), "standard input, line 3 (byte 4): ") {
		t.Errorf("%q, %v", texts(recs), err)
	}
}

// Standard output: nothing before its checkpoint is complete, nothing twice within
// a process, and all of the last checkpoint again from another process.
func TestStdout(t *testing.T) {
	var out bytes.Buffer
	process := func() (*Stdout[json.RawMessage], connector.Committer, connector.Writer[json.RawMessage]) {
		s := NewStdout(StdoutConfig[json.RawMessage]{Encode: RawLine, Output: &out})
		c, err := s.Committer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.Open(ctx, async.Subtask{})
		if err != nil {
			t.Fatal(err)
		}
		return s, c, w
	}
	s, c, w := process()
	state, err := c.Begin(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	var plan []byte
	for _, v := range []string{"1", "1"} { // the same bytes twice are two checkpoints
		if err := w.Write(append(raw(1, v), raw(0, "0")...)); err != nil {
			t.Fatal(err)
		}
		before := out.String()
		pending, err := w.Prepare(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		if state, plan, err = c.Plan(state, pending); err != nil {
			t.Fatal(err)
		}
		if out.String() != before {
			t.Fatal("written before the commit")
		}
		for range 2 {
			if err := c.Commit(ctx, plan); err != nil {
				t.Fatal(err)
			}
		}
	}
	if next, none, err := c.Plan(state, nil); err != nil || none != nil || !bytes.Equal(next, state) {
		t.Errorf("nothing to write: %x, %x, %v", next, none, err)
	}
	// A restart within the process makes another committer.
	again, err := s.Committer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Commit(ctx, plan); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "0\n1\n0\n1\n" {
		t.Errorf("got %q", got)
	}
	_, c, w = process()
	if err := c.Commit(ctx, plan); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "0\n1\n0\n1\n0\n1\n" {
		t.Errorf("after a crash: %q", got)
	}
	if err := errors.Join(w.Close(), w.Close(), c.Clean(ctx), c.Close()); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(raw(0, "1")); err == nil {
		t.Error("a closed writer takes records")
	}
	for _, bad := range [][]byte{{1}, make([]byte, 9)[:7]} {
		if err := c.Commit(ctx, bad); err == nil {
			t.Errorf("the plan %x passes", bad)
		}
		if _, _, err := c.Plan(bad, nil); err == nil {
			t.Errorf("the state %x passes", bad)
		}
	}
}

// narrow takes a few bytes at a time and then fails, once.
type narrow struct {
	bytes.Buffer
	failed bool
}

func (n *narrow) Write(p []byte) (int, error) {
	if n.failed {
		return n.Buffer.Write(p)
	}
	n.failed = true
	m, _ := n.Buffer.Write(p[:3])
	return m, errors.New("try again")
}

func TestStdoutGoesOnWhereItFailed(t *testing.T) {
	out := &narrow{}
	s := NewStdout(StdoutConfig[json.RawMessage]{Encode: RawLine, Output: out, MaxBytes: 20})
	c, err := s.Committer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	state, _ := c.Begin(ctx, nil)
	w, _ := s.Open(ctx, async.Subtask{})
	if err := w.Write(raw(0, "123", "456")); err != nil {
		t.Fatal(err)
	}
	pending, _ := w.Prepare(ctx, 1)
	_, plan, _ := c.Plan(state, pending)
	if err := c.Commit(ctx, plan); err == nil {
		t.Fatal("the error of the output is lost")
	}
	if err := c.Commit(ctx, plan); err != nil || out.String() != "123\n456\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := w.Write(raw(0, "123456789", "12345678")); err != nil {
		t.Errorf("19 of 20 bytes: %v", err)
	}
	if err := w.Write(raw(1, "1")); err == nil || !strings.Contains(err.Error(), "more than 20 bytes for standard output") {
		t.Errorf("%v", err)
	}
}

// TestStdoutThatNobodyReads: a pipe that is full holds a job up for as long as its context lasts,
// and no longer; what was written is not written again.
func TestStdoutThatNobodyReads(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	c, err := NewStdout(StdoutConfig[json.RawMessage]{Encode: RawLine, Output: w}).Committer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Repeat(strings.Repeat("1", 99)+"\n", 50_000)
	plan := append(binary.LittleEndian.AppendUint64(nil, 1), lines...)
	limited, cancel := context.WithCancel(ctx)
	full := time.AfterFunc(50*time.Millisecond, cancel)
	defer full.Stop()
	if err := c.Commit(limited, plan); err != context.Canceled {
		t.Fatalf("the commit into a full pipe ended with %v", err)
	}
	got := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, r) // an error makes it too few
		got <- n
	}()
	if err := errors.Join(c.Commit(ctx, plan), w.Close()); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != int64(len(lines)) {
		t.Errorf("%d bytes were written, want %d", n, len(lines))
	}
}
