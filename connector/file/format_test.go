package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream"
)

// A source without Decode and a sink without Encode say so when the job starts, and before.
func TestNoFormat(t *testing.T) {
	type validated interface{ Validate() error }
	stdin, stdout := NewStdin(StdinConfig[int]{}), NewStdout(StdoutConfig[int]{})
	from, to := NewSource(SourceConfig[int]{Paths: []string{"f"}}), NewSink(SinkConfig[int]{Dir: "out"})
	for i, v := range []validated{from, stdin, to, stdout} {
		want := "the source has no Decode; set one"
		if i >= 2 {
			want = "the sink has no Encode; set one"
		}
		if err := v.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%T: %v; want %q", v, err, want)
		}
	}
	for _, s := range []connector.Source[int]{from, stdin} {
		_, err1 := s.Splits(ctx)
		_, err2 := s.Open(ctx, connector.Split{}, 0)
		if !errors.Is(err1, errNoDecode) || !errors.Is(err2, errNoDecode) {
			t.Errorf("%T: %v, %v", s, err1, err2)
		}
	}
	for _, s := range []connector.Sink[int]{to, stdout} {
		_, err1 := s.Open(ctx, async.Subtask{})
		_, err2 := s.Committer(ctx)
		if !errors.Is(err1, errNoEncode) || !errors.Is(err2, errNoEncode) {
			t.Errorf("%T: %v, %v", s, err1, err2)
		}
	}
}

// Raw takes a line and RawLine gives a value without a copy.
func TestRawCopiesNothing(t *testing.T) {
	line := []byte(`{"a": 1}`)
	v, err := Raw(line)
	if err != nil || &v[0] != &line[0] {
		t.Fatalf("%s, %v", v, err)
	}
	r := async.Record[json.RawMessage]{Value: v}
	out, err := RawLine(&r)
	if err != nil || &out[0] != &line[0] {
		t.Fatalf("%s, %v", out, err)
	}
	d := decoder[json.RawMessage]{decode: Raw}
	if n := testing.AllocsPerRun(100, func() {
		if err = d.record(&r, line); err == nil {
			_, err = lineOf(RawLine, &r)
		}
	}); n != 0 || err != nil {
		t.Errorf("%v allocations a record, %v", n, err)
	}
}

// Whatever Encode makes becomes one line, or the record is refused.
func TestOneLineForARecord(t *testing.T) {
	for in, want := range map[string]string{
		"{\"a\":\n [1]}":   `{"a":[1]}`,
		"{\"a\": 1}":       `{"a": 1}`,
		"a,b":              "a,b",
		"a\nb":             "the line contains a line break and is not JSON",
		"a\rb":             "the line contains a line break and is not JSON",
		"":                 "the record is empty",
		"an error":         "the result of split 3, position 7 cannot be written: cannot encode",
		"a panic":          "panic in Encode of the sink: cannot encode",
		"error that fails": "Error of the error",
	} {
		encode := func(r *async.Record[string]) ([]byte, error) {
			switch r.Value {
			case "an error":
				return nil, errors.New("cannot encode")
			case "a panic":
				panic("cannot encode")
			case "error that fails":
				return nil, (*LineError)(nil)
			}
			return []byte(r.Value), nil
		}
		line, err := lineOf(encode, &async.Record[string]{Value: in, Split: 3, Position: 7})
		if err == nil && string(line) != want {
			t.Errorf("%q: %q; want %q", in, line, want)
		}
		if err != nil && (!strings.Contains(err.Error(), want) || async.VerdictOf(err).Class != async.BadRecord) {
			t.Errorf("%q: %v; want %q", in, err, want)
		}
	}
}

// Lines of another form than JSON, both ways.
func TestOwnFormat(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("1;one\n\n2;two\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	type row struct {
		n    int
		name []byte
	}
	j := stream.New("rows", stream.Config{})
	rows := stream.From(j, NewSource(SourceConfig[row]{
		Paths: []string{filepath.Join(dir, "in")},
		Decode: func(line []byte) (row, error) {
			n, name, _ := bytes.Cut(line, []byte(";"))
			number, err := strconv.Atoi(string(n))
			return row{number, name}, err
		},
	}))
	stream.To(rows, NewSink(SinkConfig[row]{
		Dir: filepath.Join(dir, "out"),
		Encode: func(r *async.Record[row]) ([]byte, error) {
			return fmt.Appendf(nil, "%s=%d", r.Value.name, r.Value.n), nil
		},
	}))
	if err := j.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := published(t, filepath.Join(dir, "out")); got != "one=1\ntwo=2\n" {
		t.Errorf("%q", got)
	}
}
