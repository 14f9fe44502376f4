package file

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

func zipped(t *testing.T, text string, level int) string {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func wideForm(text string, width int, order binary.AppendByteOrder) string {
	var b []byte
	if width == 2 {
		for _, u := range utf16.Encode([]rune(text)) {
			b = order.AppendUint16(b, u)
		}
	} else {
		for _, r := range text {
			b = order.AppendUint32(b, uint32(r))
		}
	}
	return string(b)
}

// foreignInputs are inputs, and the kinds that foreign returns for them. An empty kind means lines,
// and the first one may be bad.
func foreignInputs(t *testing.T) map[string]struct{ data, kind string } {
	lines := strings.Repeat("{\"n\":1,\"text\":\"fünf 五\"}\n", 20)
	all := map[string]struct{ data, kind string }{
		"gzip":                {zipped(t, lines, gzip.DefaultCompression), "gzip data"},
		"gzip, stored":        {zipped(t, lines, gzip.NoCompression), "gzip data"},
		"gzip of nothing":     {zipped(t, "", gzip.DefaultCompression), "gzip data"},
		"zstd":                {"\x28\xb5\x2f\xfd\x04\x58" + lines, "Zstandard data"},
		"zstd, skippable":     {"\x5a\x2a\x4d\x18\x04\x00\x00\x00abcd\x28\xb5\x2f\xfd", "Zstandard or LZ4 data"},
		"bzip2":               {"BZh91AY&SY\x01\x02\x03\n\x04", "bzip2 data"},
		"bzip2 of nothing":    {"BZh9\x17rE8P\x90\x00\x00\x00\x00", "bzip2 data"},
		"xz":                  {"\xfd7zXZ\x00\x00\x04\xe6\xd6\n\xb4F", "xz data"},
		"lz4":                 {"\x04\x22\x4d\x18\x64\x40\xa7" + lines, "LZ4 data"},
		"snappy":              {"\xff\x06\x00\x00sNaPpY\x01" + lines, "Snappy data"},
		"zip":                 {"PK\x03\x04\x0a\x00\x00\x00\x00\x00" + lines, "a zip archive"},
		"empty zip":           {"PK\x05\x06" + strings.Repeat("\x00", 18), "a zip archive"},
		"7z":                  {"7z\xbc\xaf\x27\x1c\x00\x04", "a 7z archive"},
		"tar":                 {"in.jsonl" + strings.Repeat("\x00", 249) + "ustar  \x00" + strings.Repeat("\x00", 247) + lines, "a tar archive"},
		"Parquet":             {"PAR1\x15\x04\x15\x0a\n" + lines + "PAR1", "a Parquet file"},
		"Avro":                {"Obj\x01\x04\x16avro.schema" + lines, "an Avro file"},
		"ORC":                 {"ORC\x0a\x06\x12\x04\x08\x01\x50\x00" + lines, "an ORC file"},
		"Arrow":               {"ARROW1\x00\x00\xff\xff\xff\xff\x10\x00\x00\x00", "an Arrow file"},
		"Arrow stream":        {"\xff\xff\xff\xff\xa8\x00\x00\x00\x10\x00\x00\x00", "an Arrow stream"},
		"NumPy":               {"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'shape': (3,)}\n" + lines, "a NumPy array"},
		"SQLite":              {"SQLite format 3\x00\x10\x00\x01\x01" + lines, "an SQLite database"},
		"PNG":                 {"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR", "a PNG image"},
		"TFRecord":            {strings.Repeat("\x1c\x00\x00\x00\x00\x00\x00\x00\xa4\xb3\xc2\xd1\x0a\x1a\x0a\x05label", 20), "binary data"},
		"floats":              {strings.Repeat("\x00\x00\x80\x3f\x00\x0a\x00\x40", 100), "binary data"},
		"wide, not of ASCII":  {wideForm("\"ü\n"+strings.Repeat("ä", 100), 2, binary.LittleEndian), "binary data"},
		"zeros alone":         {strings.Repeat("\x00", 4096), "binary data"},
		"a long line first":   {"{\"x\":\"\x00" + strings.Repeat("y", 70_000) + "\"}\n" + lines, ""},
		"a few zeros":         {"\x00\x00\n", ""},
		"no text, no zeros":   {strings.Repeat("\x01\xff\n", 100), ""},
		"lines":               {lines, ""},
		"lines with a mark":   {string(byteOrderMark) + lines, ""},
		"nothing":             {"", ""},
		"blanks":              {"\n\r\n \n", ""},
		"no JSON first":       {"nope\n" + lines, ""},
		"a header first":      {"ORCHID,PAR1,BZh9\n" + lines, ""},
		"a magic word first":  {"PAR1 begins a Parquet file, ORC another, Obj Avro\n" + lines, ""},
		"no UTF-8 first":      {"\xff\xfe\xfd\x00\x80\n" + lines, ""},
		"a wide record first": {wideForm("{\"n\":1}", 2, binary.LittleEndian) + "\n" + lines, ""},
		"the other way round": {wideForm("{\"n\":1}", 2, binary.BigEndian) + "\n" + lines, ""},
		"zeros first":         {strings.Repeat("\x00", 600) + "\n" + lines, ""},
		"all ones first":      {strings.Repeat("\xff", 600) + "\n" + lines, ""},
		"PK first":            {"PK\n" + lines, ""},
		"BZh first":           {"BZh9\n" + lines, ""},
		"one byte":            {"\x1f", ""},
	}
	for name, text := range map[string]string{"": lines, ", one line": "{\"n\":1}", ", short": "1\n2\n", ", blank first": "\n\n" + lines, ", long": strings.Repeat(lines, 200)} {
		for _, width := range []int{2, 4} {
			kind := map[int]string{2: "text in UTF-16", 4: "text in UTF-32"}[width]
			for order, o := range map[string]binary.AppendByteOrder{" LE": binary.LittleEndian, " BE": binary.BigEndian} {
				all[kind+order+name] = struct{ data, kind string }{wideForm(text, width, o), kind}
				all[kind+order+name+", marked"] = struct{ data, kind string }{wideForm("\ufeff"+text, width, o), kind}
			}
		}
	}
	return all
}

// An input that clearly is not JSON Lines is refused before the first record, whatever happens to
// bad records.
func TestForeignInput(t *testing.T) {
	for name, tt := range foreignInputs(t) {
		for _, decode := range []Decode[json.RawMessage]{Raw, Unchecked} {
			path := tempFile(t, "in.jsonl", tt.data)
			_, err := NewSource(SourceConfig[json.RawMessage]{Paths: []string{path}, Decode: decode, SplitSize: 100}).Splits(ctx)
			checkForeign(t, name, err, path, tt.kind)

			in, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			recs, _, err := readAll(NewStdin(StdinConfig[json.RawMessage]{Decode: decode, Input: in}), connector.Split{}, 0, 5)
			in.Close()
			if bad := (*LineError)(nil); errors.As(err, &bad) {
				err = nil // a record
			}
			checkForeign(t, name+" on standard input", err, "standard input", tt.kind)
			if tt.kind != "" && len(recs) > 0 {
				t.Errorf("%s: %d records", name, len(recs))
			}
		}
	}
}

func checkForeign(t *testing.T, name string, err error, where, kind string) {
	t.Helper()
	want := "file: " + where + " is not JSON Lines in UTF-8: it seems to be " + kind
	if kind == "" && err != nil || kind != "" && (err == nil || !strings.Contains(err.Error(), want) || async.VerdictOf(err).Class != async.Permanent) {
		t.Errorf("%s: %v; want %q", name, err, kind)
	}
}

// A line that is too long may not be a line at all.
func TestForeignInputWithoutLines(t *testing.T) {
	in, err := os.Open(tempFile(t, "in", "\x28\xb5\x2f\xfd"+strings.Repeat("\x01", 1000)))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	_, _, err = readAll(NewStdin(StdinConfig[json.RawMessage]{Decode: Raw, Input: in, MaxLine: 100}), connector.Split{}, 0, 5)
	checkForeign(t, "a long line", err, "standard input", "Zstandard data")
}

// One such file among many is enough.
func TestForeignFileAmongOthers(t *testing.T) {
	tree(t, "in/a.jsonl", "in/c.jsonl")
	if err := os.WriteFile("in/b.jsonl", []byte(zipped(t, "{}\n", 6)), 0o666); err != nil {
		t.Fatal(err)
	}
	_, err := rawSource("in/*").Splits(ctx)
	checkForeign(t, "the second of three", err, filepath.Join("in", "b.jsonl"), "gzip data")
}

// TestForeignFileOfARunThatGoesOn: a file that a run reads is not judged anew when the run goes on.
// It is the one that was cut, and another version may have cut it by other rules.
func TestForeignFileOfARunThatGoesOn(t *testing.T) {
	for name, tt := range foreignInputs(t) {
		if tt.kind == "" {
			continue
		}
		path := tempFile(t, "in.jsonl", tt.data)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := lookAt(f, -1)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		size := l.info.Size()
		data, err := json.Marshal(cut{Path: path, Size: size, End: size, Prefix: l.prefix, Tail: l.tail})
		if err != nil {
			t.Fatal(err)
		}
		for _, next := range []int64{0, size / 2} {
			if err := rawSource(path).Verify(ctx, []connector.Split{{Data: data}}, []int64{next}); err != nil {
				t.Errorf("%s, at byte %d: %v", name, next, err)
			}
		}
	}
}
