package file

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/async"
)

// foreignError says that an input does not hold lines. It is not a record's fault.
type foreignError struct{ name, kind string }

func (e *foreignError) Error() string {
	return fmt.Sprintf("file: %s is not JSON Lines in UTF-8: it seems to be %s; convert or unpack it first", e.name, e.kind)
}

// Verdict makes a foreignError an async.Failure. It is Permanent, because a restart does not help.
func (e *foreignError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// magics are how files of other kinds begin.
var magics = []struct{ begins, kind string }{
	{"\x28\xb5\x2f\xfd", "Zstandard data"},
	{"\xfd7zXZ\x00", "xz data"},
	{"\x04\x22\x4d\x18", "LZ4 data"},
	{"\x02\x21\x4c\x18", "LZ4 data"},
	{"\xff\x06\x00\x00sNaPpY", "Snappy data"},
	{"7z\xbc\xaf\x27\x1c", "a 7z archive"},
	{"PK\x03\x04", "a zip archive"},
	{"PK\x05\x06", "a zip archive"},
	{"PK\x07\x08", "a zip archive"},
	{"Obj\x01", "an Avro file"},
	{"ARROW1\x00\x00", "an Arrow file"},
	{"PAR1\x15", "a Parquet file"}, // \x15 begins the first field of the header
	{"PARE\x15", "a Parquet file"},
	{"\x93NUMPY", "a NumPy array"},
	{"\x89HDF\r\n\x1a\n", "an HDF5 file"},
	{"SQLite format 3\x00", "an SQLite database"},
	{"\x89PNG\r\n\x1a\n", "a PNG image"},
	{"\xff\xd8\xff", "a JPEG image"},
	{"\x7fELF", "a program"},
}

// foreign returns the kind of an input, if its beginning clearly is not JSON Lines, and otherwise
// "". An input of lines may begin with any line: a bad record does not make it a foreign file.
func foreign(head []byte) string {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.begins)) {
			return m.kind
		}
	}
	at := func(i int) byte {
		if i < len(head) {
			return head[i]
		}
		return 0
	}
	begins := func(s string) bool { return bytes.HasPrefix(head, []byte(s)) }
	switch {
	case begins("\x1f\x8b\x08") && at(3)&0xe0 == 0: // deflate, and only flags that exist
		return "gzip data"
	case begins("BZh") && at(3) >= '1' && at(3) <= '9' && (bytes.HasPrefix(head[4:], []byte("1AY&SY")) || bytes.HasPrefix(head[4:], []byte("\x17rE8P\x90"))):
		return "bzip2 data"
	case at(0)&0xf0 == 0x50 && len(head) >= 4 && bytes.Equal(head[1:4], []byte("\x2a\x4d\x18")):
		return "Zstandard or LZ4 data"
	case begins("ORC") && noText(head[3:min(len(head), 64)]):
		return "an ORC file"
	case begins("\xff\xff\xff\xff") && len(head) >= 8 && at(7) == 0 && at(4)&7 == 0:
		return "an Arrow stream" // the length of its first message is a multiple of 8
	case len(head) >= 512 && bytes.HasPrefix(head[257:], []byte("ustar")) && bytes.IndexByte(head[:257], 0) > 0:
		return "a tar archive"
	}
	if kind := wideText(head); kind != "" {
		return kind
	}
	if noLines(head) {
		return "binary data"
	}
	return ""
}

// enough is how many bytes of an input can show that it does not hold lines.
const enough = 128

// noLines reports whether an input holds a zero byte, which text does not, and not a single line of
// JSON.
func noLines(head []byte) bool {
	if len(head) < enough || bytes.IndexByte(head, 0) < 0 {
		return false
	}
	if len(head) >= prefixSize && bytes.IndexByte(head, '\n') < 0 {
		return false // one long line, which may be a bad record
	}
	for line := range bytes.Lines(head) {
		if line = bytes.TrimSpace(line); len(line) > 0 && json.Valid(line) {
			return false
		}
	}
	return true
}

// noText reports whether bytes are not text.
func noText(b []byte) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == utf8.RuneError && n == 1 && utf8.FullRune(b) {
			return true
		}
		b = b[n:]
	}
	return false
}

// wideText returns the encoding of a text whose characters have two or four bytes, with a byte
// order mark or without. It returns "" for lines of UTF-8, which the bytes around a line feed show.
func wideText(head []byte) string {
	for _, e := range []struct {
		mark   string
		width  int
		little bool
		kind   string
	}{
		{"\xff\xfe\x00\x00", 4, true, "text in UTF-32"},
		{"\x00\x00\xfe\xff", 4, false, "text in UTF-32"},
		{"\xff\xfe", 2, true, "text in UTF-16"},
		{"\xfe\xff", 2, false, "text in UTF-16"},
	} {
		marked := bytes.HasPrefix(head, []byte(e.mark))
		if (marked || wide(head, e.width, e.little) && wide(head[e.width:], e.width, e.little)) && wideLines(head, e.width, e.little) {
			return e.kind
		}
	}
	return ""
}

// wide reports whether text begins with a character of ASCII that takes width bytes.
func wide(text []byte, width int, little bool) bool {
	if len(text) < width {
		return false
	}
	c, rest := text[width-1], text[:width-1]
	if little {
		c, rest = text[0], text[1:width]
	}
	return c >= '\t' && c < 0x7f && len(bytes.Trim(rest, "\x00")) == 0
}

// wideLines reports whether the line feeds are characters of width bytes, rather than the ends of
// ordinary lines that a record follows.
func wideLines(text []byte, width int, little bool) bool {
	wides, ordinary := 0, 0
	for i, c := range text {
		if c != '\n' {
			continue
		}
		from := i / width * width
		inPlace := little && from == i || !little && from+width-1 == i
		if inPlace && wide(text[from:], width, little) {
			wides++
		} else if i+1 < len(text) && bytes.IndexByte([]byte(`{["`), text[i+1]) >= 0 {
			ordinary++
		}
	}
	return wides >= ordinary
}
