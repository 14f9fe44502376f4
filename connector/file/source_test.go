package file

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

var ctx = context.Background()

func tempFile(t testing.TB, name, data string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(data), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// readAll reads a split from a position to its end, in batches of at most most.
func readAll[T any](s connector.Source[T], split connector.Split, position int64, most int) (recs []async.Record[T], next int64, err error) {
	r, err := s.Open(ctx, split, position)
	if err != nil {
		return nil, position, err
	}
	defer r.Close()
	for {
		n := len(recs)
		recs, next, err = r.Read(ctx, recs, most)
		if err == io.EOF {
			return recs, next, nil
		}
		if err != nil {
			return recs, next, err
		}
		if len(recs) == n {
			return recs, next, errors.New("Read returned no record, no end and no error")
		}
	}
}

func texts(recs []async.Record[json.RawMessage]) (list []string) {
	for _, r := range recs {
		list = append(list, string(r.Value))
	}
	return list
}

// lines of many shapes: line ends, blanks, white space, and one larger than a buffer.
func randomFile(r *rand.Rand) (data []byte, values []string, offsets []int64) {
	if r.IntN(3) == 0 {
		data = append(data, byteOrderMark...)
	}
	for n := r.IntN(40); n > 0; n-- {
		at := int64(len(data))
		if bytes.Equal(data, byteOrderMark) {
			at = 0 // the mark belongs to the first line
		}
		data = append(data, strings.Repeat(" ", r.IntN(3))...)
		if r.IntN(5) > 0 {
			v := fmt.Sprintf(`{"n":%d,"pad":"%s"}`, len(values), strings.Repeat("x", r.IntN(30)))
			if r.IntN(200) == 0 {
				v = fmt.Sprintf(`{"pad":"%s"}`, strings.Repeat("y", 3*chunk))
			}
			data = append(data, v...)
			values, offsets = append(values, v), append(offsets, at)
		}
		data = append(data, []string{"", "", "\t"}[r.IntN(3)]...)
		if n > 1 || r.IntN(2) == 0 {
			data = append(data, []string{"\n", "\r\n"}[r.IntN(2)]...)
		}
	}
	return data, values, offsets
}

// Whatever the file and the cut, each line is in exactly one split, in order, at
// its own offset; and reading again from any position gives the rest.
func TestSplitsCoverTheFile(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 2))
	dir := t.TempDir()
	for round := range 100 {
		data, values, offsets := randomFile(r)
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		size := int64(1 + r.IntN(len(data)+20))
		if len(data) > 10000 {
			size = int64(1000 + r.IntN(len(data)))
		}
		s := NewSource(SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{path}, SplitSize: size})
		fail := func(format string, a ...any) {
			t.Helper()
			t.Fatalf("seed %d, round %d, split size %d, file %q: %s", seed, round, size, data, fmt.Sprintf(format, a...))
		}
		splits, err := s.Splits(ctx)
		if err != nil {
			fail("%v", err)
		}
		var all []async.Record[json.RawMessage]
		var ends []int64
		for _, split := range splits {
			most := 1 + r.IntN(5)
			recs, end, err := readAll(s, split, split.Start, most)
			if err != nil {
				fail("%v", err)
			}
			for i, rec := range recs {
				// From each record's position the split goes on with that record.
				if r.IntN(4) > 0 {
					continue
				}
				rest, _, err := readAll(s, split, rec.Position, most)
				if err != nil || !slices.Equal(texts(rest), texts(recs[i:])) {
					fail("from %d: %q, %v", rec.Position, texts(rest), err)
				}
			}
			// And so it does from the Next of a batch.
			rd, err := s.Open(ctx, split, split.Start)
			if err != nil {
				fail("%v", err)
			}
			first, next, _ := rd.Read(ctx, nil, most)
			rd.Close()
			rest, _, err := readAll(s, split, next, 100)
			if err != nil || !slices.Equal(texts(append(first, rest...)), texts(recs)) {
				fail("from next %d: %q, %v", next, texts(rest), err)
			}
			all, ends = append(all, recs...), append(ends, end)
		}
		if !slices.Equal(texts(all), values) {
			fail("got %q; want %q", texts(all), values)
		}
		for i, rec := range all {
			if rec.Position != offsets[i] || rec.Time != async.NoTime {
				fail("record %d is at %d with time %d; want %d without", i, rec.Position, rec.Time, offsets[i])
			}
		}
		if err := s.Verify(ctx, splits, ends); err != nil {
			fail("%v", err)
		}
	}
}

// The bytes of raw records are the caller's for good: no later read changes them,
// and appending to one does not reach its neighbour.
func TestRawRecordsAreTheCallers(t *testing.T) {
	var data bytes.Buffer
	for i := range 5000 {
		fmt.Fprintf(&data, `{"n":%d,"pad":"%s"}`+"\n", i, strings.Repeat("z", i%97))
	}
	s := rawSource(tempFile(t, "f", data.String()))
	splits, err := s.Splits(ctx)
	if err != nil {
		t.Fatal(err)
	}
	recs, _, err := readAll(s, splits[0], 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	for i := range recs {
		_ = append(recs[i].Value, "overwritten"...)
	}
	if got := strings.Join(texts(recs), "\n") + "\n"; got != data.String() {
		t.Error("records changed after they were read")
	}
}

func TestTyped(t *testing.T) {
	type rec struct {
		N  int   `json:"n"`
		MS int64 `json:"ms"`
	}
	path := tempFile(t, "f.jsonl", "{\"n\":1,\"ms\":5}\n\n{\"n\":2,\"ms\":6}\n{\"n\":\"x\"}\n{\"n\":4}\n")
	s := NewSource(SourceConfig[rec]{Decode: JSON[rec], Paths: []string{path}, Time: func(r rec) (async.EventTime, error) { return async.EventTime(r.MS), nil }})
	splits, err := s.Splits(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rd, err := s.Open(ctx, splits[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	// The records before a bad line come first, then the error, again and again.
	recs, next, err := rd.Read(ctx, nil, 100)
	if err != nil || len(recs) != 2 || recs[1].Value != (rec{2, 6}) || recs[1].Time != 6 || next != 31 {
		t.Fatalf("%+v, next %d, %v", recs, next, err)
	}
	for range 2 {
		recs, _, err = rd.Read(ctx, nil, 100)
		bad, ok := errors.AsType[*LineError](err)
		if !ok || len(recs) != 0 || bad.Line != 4 || bad.Offset != 31 || async.VerdictOf(err).Class != async.BadRecord {
			t.Fatalf("%+v, %v", recs, err)
		}
		if !strings.Contains(err.Error(), path+", line 4 (byte 31): ") || !strings.Contains(err.Error(), "correct or remove the line") {
			t.Fatal(err)
		}
	}
}

func TestBadLines(t *testing.T) {
	for name, tt := range map[string]struct{ data, want string }{
		"not JSON":       {"{}\n{\"a\":}\n", "line 2 (byte 3): the line cannot be decoded: it is not JSON: invalid character '}'"},
		"two on a line":  {"{} {}\n", "line 1 (byte 0)"},
		"cut short":      {"{}\r\n{\"a\":1", "line 2 (byte 4)"},
		"too long":       {"{}\n[" + strings.Repeat(" ", 100) + "]\n", "line 2 (byte 3): the line is longer than 64 bytes; raise"},
		"endless":        {strings.Repeat("[", 5*chunk), "line 1 (byte 0): the line is longer than 64 bytes"},
		"mark in midway": {"{}\n\ufeff{}\n", "line 2 (byte 3)"},
	} {
		s := NewSource(SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{tempFile(t, "f", tt.data)}, MaxLine: 64})
		splits, err := s.Splits(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := readAll(s, splits[0], 0, 10); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
	// A line of the greatest length passes, with either line end.
	line := "[" + strings.Repeat(" ", 62) + "]"
	s := NewSource(SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{tempFile(t, "f", line+"\n"+line+"\r\n"+line)}, MaxLine: 64})
	splits, _ := s.Splits(ctx)
	if recs, _, err := readAll(s, splits[0], 0, 10); err != nil || len(recs) != 3 {
		t.Errorf("%d records, %v", len(recs), err)
	}
}

// Unchecked, every line that is not blank is a record, as it is.
func TestUncheckedLines(t *testing.T) {
	data := "{}\n\n{\"a\":\r\n \xff\x00 \n{} {}"
	s := NewSource(SourceConfig[json.RawMessage]{Paths: []string{tempFile(t, "f", data)}, Decode: Unchecked})
	splits, err := s.Splits(ctx)
	if err != nil {
		t.Fatal(err)
	}
	recs, _, err := readAll(s, splits[0], 0, 10)
	var got []string
	for _, r := range recs {
		got = append(got, fmt.Sprintf("%d:%s", r.Position, r.Value))
	}
	if want := []string{"0:{}", "4:{\"a\":", "11:\xff\x00", "16:{} {}"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

func TestPaths(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.jsonl", "a.jsonl", "c.txt", "[x].jsonl"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "d.jsonl"), 0o777); err != nil {
		t.Fatal(err)
	}
	in := func(names ...string) (paths []string) {
		for _, n := range names {
			paths = append(paths, filepath.Join(dir, n))
		}
		return paths
	}
	for _, tt := range []struct{ paths, want []string }{
		{in("*.jsonl"), in("[x].jsonl", "a.jsonl", "b.jsonl")},
		{in("c.txt", "*.jsonl", "a.jsonl"), in("c.txt", "[x].jsonl", "a.jsonl", "b.jsonl")},
		{in("b.jsonl", "a.jsonl"), in("b.jsonl", "a.jsonl")},
		{in("[x].jsonl"), in("[x].jsonl")},
	} {
		splits, err := rawSource(tt.paths...).Splits(ctx)
		if err != nil {
			t.Errorf("%v: %v", tt.paths, err)
			continue
		}
		var got []string
		for _, s := range splits {
			c, err := parseCut(s)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, c.Path)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v: got %v", tt.paths, got)
		}
	}
	for want, paths := range map[string][]string{
		"no paths":          nil,
		"matches no file":   in("*.csv"),
		"no such file":      in("none"),
		"is a folder":       in("d.jsonl"),
		"not a regular":     {os.DevNull},
		"syntax error":      in("[a"),
		"the split size is": nil,
		"has no Decode":     in("a.jsonl"),
	} {
		c := SourceConfig[json.RawMessage]{Decode: Raw, Paths: paths}
		if strings.HasPrefix(want, "the split size") {
			c.SplitSize = -1
		}
		if want == "has no Decode" {
			c.Decode = nil
		}
		if _, err := NewSource(c).Splits(ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v; want %q", paths, err, want)
		}
	}
}

func TestVerify(t *testing.T) {
	long := strings.Repeat("{\"a\":1}\n", 20000) // longer than the prefix
	middle := long[:100000] + "{\"b\":2}\n" + long[100008:]
	for name, tt := range map[string]struct {
		was, now string
		next     int64
		want     string // empty: accepted
	}{
		"unchanged":                {"{}\n{}\n", "{}\n{}\n", 3, ""},
		"appended":                 {"{}\n{}\n", "{}\n{}\n{}\n", 3, ""},
		"appended to a long one":   {long, long + "{}\n", 8, ""},
		"appended to nothing":      {"", "{}\n", 0, ""},
		"replaced":                 {"{}\n{}\n", "[]\n[]\n", 3, "its beginning has changed"},
		"shrunk below the prefix":  {"{}\n{}\n", "{}\n", 3, "has shrunk to 3 bytes; it had 6"},
		"rewritten in the middle":  {long, middle, 8, "was written to while the job ran, and not at its end"},
		"shrunk beyond the prefix": {long, long[:80000], 8, "has shrunk to 80000 bytes; it had 160000"},
		"gone":                     {"{}\n{}\n", "", -1, "no such file"},
	} {
		path := tempFile(t, "f", tt.was)
		s := rawSource(path)
		splits, err := s.Splits(ctx)
		if err != nil {
			t.Fatal(err)
		}
		next := make([]int64, len(splits))
		for i := range next {
			next[i] = tt.next
		}
		if tt.now != tt.was {
			if err := os.WriteFile(path, []byte(tt.now), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if tt.next < 0 {
			os.Remove(path)
		}
		err = s.Verify(ctx, splits, next)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
		if tt.want == "" {
			// What was appended is not read: the cut is what it was.
			var n int
			for _, split := range splits {
				recs, _, err := readAll(s, split, split.Start, 1000)
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				n += len(recs)
			}
			if want := strings.Count(tt.was, "\n"); n != want {
				t.Errorf("%s: %d records; want %d", name, n, want)
			}
		}
	}
}

// A run goes on with the files as they were when it began, and says what it does not read.
func TestWhatIsNotRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "{}\n")
	write("b", "{}\n{}\n")
	var log strings.Builder
	c := SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{filepath.Join(dir, "*")}, SplitSize: 3, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	splits, err := NewSource(c).Splits(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := NewSource(c) // of a later process
	if _, ok := s.File(0); ok {
		t.Error("a file before there are splits")
	}
	next := make([]int64, len(splits))
	if err := s.Verify(ctx, splits, next); err != nil || log.Len() > 0 {
		t.Errorf("%v; %s", err, log.String())
	}
	for i, name := range []string{"a", "b", "b"} {
		if path, ok := s.File(i); !ok || path != filepath.Join(dir, name) {
			t.Errorf("split %d is of %s", i, path)
		}
	}
	if path, ok := s.File(3); ok {
		t.Errorf("split 3 is of %s", path)
	}
	write("b", "{}\n{}\n{}\n")
	write("c", "{}\n")
	write("d", "")
	if err := s.Verify(ctx, splits, next); err != nil || strings.Count(log.String(), "\n") != 2 ||
		!strings.Contains(log.String(), "has grown") || !strings.Contains(log.String(), "was=6 is=9") || !strings.Contains(log.String(), "has come since") {
		t.Errorf("%v; %s", err, log.String())
	}
}

func TestTheFileShrinksWhileItIsRead(t *testing.T) {
	path := tempFile(t, "f", strings.Repeat("{\"a\":1}\n", 50000))
	s := rawSource(path)
	splits, err := s.Splits(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 100000); err != nil {
		t.Fatal(err)
	}
	_, _, err = readAll(s, splits[0], 0, 1000)
	if err == nil || !strings.Contains(err.Error(), "has shrunk to 100000 bytes; it had 400000") || async.VerdictOf(err).Class == async.BadRecord {
		t.Errorf("%v", err)
	}
}

func TestHostileSplits(t *testing.T) {
	s := rawSource("f")
	for _, data := range []string{"", "{", `{"path":"f","start":-1}`, `{"path":"f","start":5,"end":3,"size":9}`, `{"path":"f","end":10,"size":9}`, `{"path":"","end":9,"size":9}`} {
		split := connector.Split{Data: []byte(data)}
		if _, err := s.Open(ctx, split, 0); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("Open of %s: %v", data, err)
		}
		if err := s.Verify(ctx, []connector.Split{split}, []int64{0}); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("Verify of %s: %v", data, err)
		}
	}
	good := connector.Split{Data: []byte(`{"path":"f","start":2,"end":9,"size":9}`), Start: 2}
	for _, pos := range []int64{-1, 1, 10} {
		if _, err := s.Open(ctx, good, pos); err == nil || !strings.Contains(err.Error(), "outside the split") {
			t.Errorf("position %d: %v", pos, err)
		}
	}
}

func TestTimeField(t *testing.T) {
	f := TimeField("ts")
	for record, want := range map[string]async.EventTime{
		`{"ts":1700000000123}`: 1700000000123, `{"a":[{"ts":1},"}"],"ts":-5 }`: -5, `{"x":{"ts":1}}`: async.NoTime,
		`{"ts":null}`: async.NoTime, ` { "b" : "\"ts\":1" , "ts" : "1970-01-01T00:00:01.5Z" } `: 1500,
		`{"t\u0073":7}`: 7, `{"ts":1,"ts":2}`: 2, `{}`: async.NoTime, `{"a":-1.5e3,"b":true,"ts":3}`: 3,
		`{"ts":253402300799999}`: async.MaxTime, `{"ts":-62135596800000}`: async.MinTime,
		`{"ts":253402300800000}`: async.BadTime, `{"ts":1700000000123456}`: async.BadTime, `{"ts":-9223372036854775808}`: async.BadTime,
		`{"ts":99999999999999999999}`: async.BadTime, `{"ts":"0000-12-31T23:59:59Z"}`: async.BadTime, `{"ts":"9999-12-31T23:59:59.999Z"}`: async.MaxTime,
	} {
		if got, err := f([]byte(record)); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", record, got, err, want)
		}
	}
	for record, want := range map[string]string{
		`[1]`: "not a JSON object", `{"ts":1.5}`: "whole number", `{"ts":"now"}`: "is not a time", `{"ts":{}}`: "whole number",
		`{"ts"`: "not a JSON object", ``: "not a JSON object", `{"ts":"`: "not a JSON object",
	} {
		if _, err := f([]byte(record)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", record, err, want)
		}
	}
}

func FuzzTopField(f *testing.F) {
	f.Add([]byte(`{"a":[{"ts":1},"}"],"ts":-5 }`))
	f.Add([]byte(`{"t\u0073":"x","ts":{"ts":[]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := topField(b, "ts")
		var want map[string]json.RawMessage
		if json.Unmarshal(b, &want) != nil || want == nil {
			return // anything may come out, but no panic
		}
		if err != nil || !bytes.Equal(got, want["ts"]) {
			t.Fatalf("%s: got %q, %v; want %q", b, got, err, want["ts"])
		}
	})
}

func BenchmarkRawRead(b *testing.B) {
	data := strings.Repeat(`{"id":1364,"label":2,"pixels":[0,0,7,16,14,3,0,0,0,0,9,14,11,15,0,0]}`+"\n", 20000)
	s := rawSource(tempFile(b, "f", data))
	splits, err := s.Splits(ctx)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]async.Record[json.RawMessage], 0, 256)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		rd, err := s.Open(ctx, splits[0], 0)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, _, err = rd.Read(ctx, buf[:0], 256)
		}
		rd.Close()
		if err != io.EOF {
			b.Fatal(err)
		}
	}
}
