package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// manyLines returns lines of one length. Lines with another mark differ in almost all bytes.
func manyLines(n int, mark string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"n\":%6d,%q:0}\n", i, strings.Repeat(mark, 20))
	}
	return b.String()
}

const lineSize = 38 // of manyLines

// oldFile makes a file that was last written to an hour ago, so that the clock of the file system
// has moved on.
func oldFile(t *testing.T, path, data string) {
	t.Helper()
	err := os.WriteFile(path, []byte(data), 0o666)
	if err == nil {
		err = os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path string, at int, data string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte(data), int64(at))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, path string, size int) {
	t.Helper()
	if err := os.Truncate(path, int64(size)); err != nil {
		t.Fatal(err)
	}
}

// replace puts another file in the place of a file.
func replace(t *testing.T, path, data string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	oldFile(t, other, data)
	err = os.Chtimes(other, time.Time{}, info.ModTime()) // so that the time says nothing
	if err == nil {
		err = os.Rename(other, path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

const prefixLines = 2 * prefixSize / lineSize // more than what the checksum of a beginning covers

// fileChanges are what may happen to a file of these lines.
func fileChanges(t *testing.T, is string) []struct {
	name   string
	change func(path string)
	// during and before are the errors if that happens while a split of the file is read, and
	// before it is opened. If one is empty, the records are those of the original file.
	during, before string
} {
	n := len(is)
	other := manyLines(len(is)/lineSize, "o")
	behind := is[:prefixSize] + other[prefixSize:n]
	const shrunk, replaced, written, grown = "has shrunk to", "was replaced by another file", "and not at its end", "its earlier bytes have changed"
	return []struct {
		name           string
		change         func(path string)
		during, before string
	}{
		{"nothing", func(string) {}, "", ""},
		{"appended to", func(p string) { overwrite(t, p, n, "{}\n") }, "", ""},
		{"appended to twice", func(p string) { overwrite(t, p, n, "{}\n"); overwrite(t, p, n+3, "{}\n") }, "", ""},
		{"removed", func(p string) { os.Remove(p) }, "", "no such file"},
		{"replaced by a longer one", func(p string) { replace(t, p, behind+other) }, "", replaced},
		{"replaced by one of its size", func(p string) { replace(t, p, behind) }, "", replaced},
		{"replaced by its copy", func(p string) { replace(t, p, is) }, "", replaced},
		{"replaced by a shorter one", func(p string) { replace(t, p, is[:n/2]) }, "", replaced},
		{"cut short", func(p string) { truncate(t, p, n-lineSize) }, shrunk, shrunk},
		{"cut short and filled up", func(p string) { truncate(t, p, n/2); overwrite(t, p, n/2, other[n/2:n]) }, written, written},
		{"emptied and written again", func(p string) { truncate(t, p, 0); overwrite(t, p, 0, is) }, written, written},
		{"rewritten", func(p string) { overwrite(t, p, prefixSize, other[prefixSize:n]) }, written, written},
		{"rewritten in one line", func(p string) { overwrite(t, p, 100_000, "{}") }, written, written},
		{"rewritten and grown", func(p string) { overwrite(t, p, prefixSize, other[prefixSize:n]+other) }, grown, grown},
		{"rewritten at its beginning and grown", func(p string) { overwrite(t, p, 0, other[:100]); overwrite(t, p, n, "{}\n") }, grown, grown},
	}
}

// Within an attempt a file must stay the one that was cut. Otherwise the reader says what has
// changed.
func TestFileChangesWhileItIsRead(t *testing.T) {
	is := manyLines(4*prefixLines, "i")
	for _, size := range []int64{50_000, int64(len(is))} {
		for _, tt := range fileChanges(t, is) {
			for when, want := range map[string]string{"during": tt.during, "before": tt.before} {
				var log strings.Builder
				path := filepath.Join(t.TempDir(), "in.jsonl")
				oldFile(t, path, is)
				s := NewSource(SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{path}, SplitSize: size, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				splits, err := s.Splits(ctx)
				if err != nil {
					t.Fatal(err)
				}
				// A change after a split was read may not show in that split, so the last one
				// is looked at.
				last := splits[len(splits)-1]
				if len(splits) > 1 {
					if _, _, err := readAll(s, splits[0], splits[0].Start, 100); err != nil {
						t.Fatal(err)
					}
				}
				if when == "before" {
					tt.change(path)
				}
				r, err := s.Open(ctx, last, last.Start)
				var got strings.Builder
				for i := 0; err == nil; i++ {
					var recs []async.Record[json.RawMessage]
					recs, _, err = r.Read(ctx, nil, 100)
					for _, rec := range recs {
						got.Write(rec.Value)
						got.WriteByte('\n')
					}
					if i == 0 && when == "during" {
						tt.change(path)
					}
				}
				if r != nil {
					r.Close()
				}
				name := fmt.Sprintf("%s %s a split of %d bytes is read", tt.name, when, size)
				changed, isChange := errors.AsType[*ChangedError](err)
				switch {
				case want == "" && (fmt.Sprint(err) != "EOF" || !strings.HasSuffix(is, got.String()) || int64(got.Len()) < int64(len(is))-last.Start-40):
					t.Errorf("%s: %d bytes, %v", name, got.Len(), err)
				case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
					t.Errorf("%s: %v; want %q", name, err, want)
				case isChange && (changed.Path != path || async.VerdictOf(err).Class != async.Permanent || async.VerdictOf(err).Retry):
					t.Errorf("%s: %+v", name, changed)
				}
				if grown := strings.Count(log.String(), "has grown"); strings.HasPrefix(tt.name, "appended") != (grown == 1) {
					t.Errorf("%s: the log says %q", name, log.String())
				}
			}
		}
	}
}

// Another file that had not been opened when it changed is noticed as well, and the job ends at
// once.
func TestFileChangesWhileAJobRuns(t *testing.T) {
	is := manyLines(2*prefixLines, "i")
	for _, tt := range fileChanges(t, is) {
		dir := t.TempDir()
		first, second, out := filepath.Join(dir, "1"), filepath.Join(dir, "2"), filepath.Join(dir, "out")
		oldFile(t, first, "{}\n{}\n")
		oldFile(t, second, is)
		restarts := 0
		j := stream.New("job", stream.Config{
			Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 5, Delay: time.Millisecond},
			Observer: observing(func(e stream.Event) {
				if _, ok := e.(stream.Restarting); ok {
					restarts++
				}
			}),
		})
		changed := false
		records := stream.Map(stream.From(j, stream.Copying(rawSource(first, second), cloned)), func(v json.RawMessage) (json.RawMessage, error) {
			if !changed {
				changed = true
				tt.change(second)
			}
			return v, nil
		})
		stream.To(records, rawSink(out))
		err := j.Run(ctx)
		switch {
		// Whether the second file was open by then is not known.
		case err == nil && published(t, out) != "{}\n{}\n"+is:
			t.Errorf("%s: %d bytes are published of %d", tt.name, len(published(t, out)), len(is)+6)
		case err == nil && tt.during != "":
			t.Errorf("%s: nothing is said", tt.name)
		case err != nil && (tt.before == "" || !strings.Contains(err.Error(), tt.before)):
			t.Errorf("%s: %v; want %q", tt.name, err, tt.before)
		case tt.name != "removed" && restarts > 0:
			t.Errorf("%s: %d restarts, %v", tt.name, restarts, err)
		}
	}
}

func cloned(v json.RawMessage) json.RawMessage { return bytes.Clone(v) }

type observing func(stream.Event)

func (f observing) Observe(e stream.Event) { f(e) }

// After a restore a job goes on with a file that is the same as far as the checksums show, whatever
// its place on the disk.
func TestFileChangesBetweenAttempts(t *testing.T) {
	is := manyLines(4*prefixLines, "i")
	other := manyLines(4*prefixLines, "o")
	n := len(is)
	const at = 150_000 // a position within a split
	for name, tt := range map[string]struct {
		change func(path string)
		want   string
	}{
		"nothing":                       {func(string) {}, ""},
		"a copy of it":                  {func(p string) { replace(t, p, is); os.Chtimes(p, time.Time{}, time.Now()) }, ""},
		"written again":                 {func(p string) { truncate(t, p, 0); overwrite(t, p, 0, is) }, ""},
		"appended to":                   {func(p string) { overwrite(t, p, n, "{}\n") }, ""},
		"another behind its beginning":  {func(p string) { replace(t, p, is[:prefixSize]+other[prefixSize:]) }, "its content before byte"},
		"another before the position":   {func(p string) { overwrite(t, p, prefixSize, other[prefixSize:at]) }, "up to which it was read, has changed"},
		"another from the position on":  {func(p string) { overwrite(t, p, at+20_000, other[at+20_000:]) }, "where it ended, has changed"},
		"a longer one":                  {func(p string) { replace(t, p, is[:prefixSize]+other[prefixSize:]+other) }, "has changed"},
		"longer, the rest is other":     {func(p string) { overwrite(t, p, at+20_000, other[at+20_000:]+other) }, "where it ended, has changed"},
		"cut short":                     {func(p string) { truncate(t, p, n-lineSize) }, "has shrunk to"},
		"cut short before the position": {func(p string) { truncate(t, p, at/2) }, "has shrunk to"},
		"gone":                          {func(p string) { os.Remove(p) }, "no such file"},
	} {
		for _, most := range []int{1, 3, 256} {
			path := filepath.Join(t.TempDir(), "in.jsonl")
			oldFile(t, path, is)
			c := SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{path}, SplitSize: 100_000}
			splits, next := readTo(t, NewSource(c), at, most)
			tt.change(path)
			err := NewSource(c).Verify(ctx, splits, next)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%s: %v; want %q", name, err, tt.want)
			}
			if tt.want != "" {
				continue
			}
			var got strings.Builder
			s := NewSource(c)
			for i, split := range splits {
				recs, _, err := readAll[json.RawMessage](s, split, next[i], 1000)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				got.WriteString(strings.Join(texts(recs), "\n") + "\n")
			}
			if rest := strings.TrimLeft(got.String(), "\n"); !strings.HasSuffix(is, rest) || n-len(rest) > int(next[1]) {
				t.Errorf("%s: %d bytes are read from position %d on", name, len(rest), next[1])
			}
		}
	}
}

// readTo reads splits up to about a position, and returns what a checkpoint there would keep.
func readTo(t *testing.T, s connector.Source[json.RawMessage], at int64, most int) (splits []connector.Split, next []int64) {
	t.Helper()
	splits, err := s.Splits(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range splits {
		next = append(next, splits[i].Start)
		if splits[i].Start >= at {
			continue
		}
		r, err := s.Open(ctx, splits[i], splits[i].Start)
		for err == nil && next[i] < at {
			_, next[i], err = r.Read(ctx, nil, most)
			if err == nil || fmt.Sprint(err) == "EOF" {
				splits[i].Data = r.(connector.Describer).Describe(nil)
			}
		}
		if err != nil && fmt.Sprint(err) != "EOF" {
			t.Fatal(err)
		}
		r.Close()
	}
	return splits, next
}

// However many empty lines one Read skips, and whatever ends it, the description has the checksum
// of the bytes before its position.
func TestDescribeBehindEmptyLines(t *testing.T) {
	data := `{"a":1}` + "\n" + strings.Repeat("\n", 3*chunk+100) + `{"a":2}` + "\n" + `{"a":` + "\n"
	s := NewSource(SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{tempFile(t, "f", data)}})
	splits, err := s.Splits(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rd, err := s.Open(ctx, splits[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	for {
		_, next, err := rd.Read(ctx, nil, 2)
		if line := (*LineError)(nil); errors.As(err, &line) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		c, perr := parseCut(connector.Split{Data: rd.(connector.Describer).Describe(nil)})
		if perr != nil || c.Read == nil || c.Read.At != next || next > tailSize && c.Read.At-c.Read.From < tailSize {
			t.Fatalf("at %d: %+v, %v", next, c.Read, perr)
		}
	}
}

// What a split's description says of what was read is true, however it was read, and is little.
func TestDescribe(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 20 {
		data, _, _ := randomFile(r)
		data = append(data, manyLines(r.IntN(2000), "m")...)
		path := tempFile(t, "f", string(data))
		s := NewSource(SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{path}, SplitSize: int64(1 + r.IntN(len(data)+20))})
		splits, err := s.Splits(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, split := range splits {
			rd, err := s.Open(ctx, split, split.Start)
			if err != nil {
				t.Fatal(err)
			}
			buf, begin := []byte("before"), int64(-1)
			var next int64
			for err == nil {
				_, next, err = rd.Read(ctx, nil, 1+r.IntN(20))
				buf = rd.(connector.Describer).Describe(buf[:6])
				described := connector.Split{Data: buf[6:], Start: split.Start}
				c, perr := parseCut(described)
				if perr != nil || c.Read != nil && (c.Read.At > next || next-c.Read.At >= tailSize || c.Read.At-c.Read.From > 2*tailSize) {
					t.Fatalf("seed %d: at %d: %s, %v", seed, next, buf, perr)
				}
				if c.Read != nil && begin < 0 {
					begin = c.Read.From // behind a line that began in the split before
				}
				if c.Read != nil && next-begin > 3*tailSize && c.Read.At-c.Read.From < tailSize {
					t.Fatalf("seed %d: at %d: %s is little", seed, next, buf)
				}
				if err := s.Verify(ctx, []connector.Split{described}, []int64{next}); err != nil {
					t.Fatalf("seed %d: at %d: %v", seed, next, err)
				}
				if c.Read == nil {
					continue
				}
				// With any other byte it does not match.
				for _, at := range []int64{c.Read.From, c.Read.At - 1} {
					other := bytes.Clone(data)
					other[at] ^= 1
					f, err := os.Open(tempFile(t, "other", string(other)))
					if err != nil {
						t.Fatal(err)
					}
					same, err := c.Read.in(f)
					if f.Close(); same || err != nil {
						t.Fatalf("seed %d: byte %d is another, and %s is the same: %v", seed, at, buf, err)
					}
				}
			}
			rd.Close()
		}
	}
}

// Checkpoints of earlier versions have less information, and a job can still go on from them.
func TestSplitsOfEarlierVersions(t *testing.T) {
	is := manyLines(1000, "i")
	path := filepath.Join(t.TempDir(), "in.jsonl")
	oldFile(t, path, is)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := lookAt(f, int64(len(is)))
	if err != nil {
		t.Fatal(err)
	}
	old := connector.Split{Data: fmt.Appendf(nil, `{"path":%q,"size":%d,"start":0,"end":%d,"prefix":%q}`, path, len(is), len(is), l.prefix)}
	for _, change := range []func(){func() {}, func() { overwrite(t, path, len(is), "{}\n") }} {
		change()
		s := rawSource(path)
		if err := s.Verify(ctx, []connector.Split{old}, []int64{10 * lineSize}); err != nil {
			t.Error(err)
		}
		if recs, _, err := readAll[json.RawMessage](s, old, 10*lineSize, 100); err != nil || len(recs) != 990 {
			t.Errorf("%d records, %v", len(recs), err)
		}
	}
	// Hostile descriptions are refused.
	for _, read := range []string{`{"from":-1,"at":5}`, `{"from":9,"at":5}`, `{"from":0,"at":99999999999}`, `{"from":0,"at":300,"sum":1}`} {
		bad := connector.Split{Data: bytes.Replace(old.Data, []byte(`{"path"`), []byte(`{"read":`+read+`,"path"`), 1)}
		if err := rawSource(path).Verify(ctx, []connector.Split{bad}, []int64{1 << 40}); err == nil || !strings.Contains(err.Error(), "has changed") && !strings.Contains(err.Error(), "has shrunk") {
			t.Errorf("%s: %v", read, err)
		}
	}
}

// A run that was stopped does not go on with a file that is another one where it was read.
func TestStoppedRunAndAnotherFile(t *testing.T) {
	is, other := manyLines(3*prefixLines, "i"), manyLines(3*prefixLines, "o")
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	oldFile(t, in, is)
	start := func(stopAt int) error {
		store, err := checkpoint.Open(filepath.Join(dir, "state"), checkpoint.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		b, err := store.Resume("job")
		if err != nil {
			t.Fatal(err)
		}
		j := stream.New("job", stream.Config{RunID: b.ID, Resume: b.Restore, LastID: b.LastID, Previous: b.Previous, Checkpoint: stream.CheckpointConfig{Store: store}})
		reached, seen := make(chan struct{}), 0
		records := stream.Map(stream.From(j, stream.Copying(rawSource(in), cloned)), func(v json.RawMessage) (json.RawMessage, error) {
			if seen++; seen == stopAt {
				close(reached)
			}
			return v, nil
		})
		stream.To(records, NewSink(SinkConfig[json.RawMessage]{Encode: RawLine, Dir: out, Job: "job"}))
		run := j.Start(ctx)
		select {
		case <-reached:
			run.Stop()
		case <-run.Done():
		}
		return run.Wait()
	}
	if err := start(2 * prefixLines); !errors.Is(err, stream.ErrStopped) {
		t.Fatal(err)
	}
	half := published(t, out)
	if len(half) < 2*prefixSize || len(half) == len(is) {
		t.Fatalf("%d bytes are published of %d", len(half), len(is))
	}
	// Neither its beginning nor its end shows it.
	overwrite(t, in, prefixSize, other[prefixSize:len(half)])
	if err := start(0); err == nil || !strings.Contains(err.Error(), "is not the file that was being read") || published(t, out) != half {
		t.Errorf("%v", err)
	}
	overwrite(t, in, 0, is)
	if err := start(0); err != nil || published(t, out) != is {
		t.Errorf("%d bytes are published of %d: %v", len(published(t, out)), len(is), err)
	}
}
