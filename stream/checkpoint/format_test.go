package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"
	"time"
)

func sample() *Snapshot {
	return &Snapshot{
		ID: 7, Job: "digits", Run: "run-000001-00", Attempt: 2,
		Created:  time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC),
		Identity: []Property{{"order", "ordered"}, {"model", "digits"}},
		Counters: []Counter{{"read", 450}, {"completed", 440}},
		Sections: []Section{
			{Operator: "source", Kind: "source", Parallelism: 2, Parts: []Part{
				{Split: 0, Subtask: 0, Name: "position", Data: []byte("4711")},
				{Split: 1, Subtask: 1, Name: "position", Data: bytes.Repeat([]byte{0xff, 0}, 50)},
			}},
			{Operator: "infer", Kind: "async", Parallelism: 2},
			{Operator: "sink", Kind: "sink", Parallelism: 1, Parts: []Part{{Split: -1, Name: "plan\x1b[31m", Data: []byte{}}}},
		},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, want := range []*Snapshot{sample(), {ID: 1, Finished: true, Created: time.Time{}}} {
		got, err := Decode(Encode(want))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		if !bytes.Equal(Encode(got), Encode(want)) {
			t.Error("the same snapshot gives other bytes")
		}
	}
}

// Any one byte that differs, and any cut, is seen.
func TestDamageIsSeen(t *testing.T) {
	whole := Encode(sample())
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		if _, err := Decode(b); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Fatalf("byte %d of %d changed: %v", i, len(whole), err)
		}
		if _, err := Decode(whole[:i]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d of %d: %v", i, len(whole), err)
		}
	}
	if _, err := Decode(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a byte too many: %v", err)
	}
}

// Whole frames that are dropped, doubled or swapped have good checksums of their own.
func TestFramesOutOfPlaceAreSeen(t *testing.T) {
	whole := Encode(sample())
	var frames [][]byte
	head := len(magic) + 4
	for pos := head; pos < len(whole); {
		n := frameOverhead + int(binary.LittleEndian.Uint64(whole[pos+1:]))
		frames = append(frames, whole[pos:pos+n])
		pos += n
	}
	for name, order := range map[string][]int{
		"section dropped": {0, 1, 2, 4}, "sections swapped": {0, 2, 1, 3, 4}, "section doubled": {0, 1, 1, 2, 3, 4},
		"head dropped": {1, 2, 3, 4}, "head doubled": {0, 0, 1, 2, 3, 4}, "end first": {4}, "end doubled": {0, 1, 2, 3, 4, 4},
	} {
		b := bytes.Clone(whole[:head])
		for _, i := range order {
			b = append(b, frames[i]...)
		}
		if _, err := Decode(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewerVersionIsRefusedAndSaysWhy(t *testing.T) {
	b := Encode(sample())
	binary.LittleEndian.PutUint32(b[len(magic):], 9)
	_, err := Decode(b)
	if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "version 9, but this program knows versions up to 2") {
		t.Fatal(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(sample()), false)
	f.Add(Encode(&Snapshot{}), true)
	f.Add([]byte(magic), true)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend {
			b = mended(b)
		}
		s, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		again, err := Decode(Encode(s))
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("what was read can't be written: %v\n%+v\n%+v", err, s, again)
		}
		if err := Describe(&bytes.Buffer{}, s); err != nil {
			t.Fatal(err)
		}
	})
}

// mended makes a snapshot of payloads: bytes that reach the decoder behind
// checksums that are right. Each payload is led by its kind and length.
func mended(b []byte) []byte {
	out := binary.LittleEndian.AppendUint32([]byte(magic), Version)
	for len(b) >= 2 {
		kind, n := b[0]%4, min(int(b[1]), len(b)-2)
		payload := b[2 : 2+n]
		b = b[2+n:]
		if kind == frameEnd && n >= 4 {
			payload = binary.LittleEndian.AppendUint32(bytes.Clone(payload[:4]), crc32.Checksum(out, castagnoli))
		}
		out = appendFrame(out, kind, func(dst []byte) []byte { return append(dst, payload...) })
	}
	return out
}

func TestCompare(t *testing.T) {
	a := []Property{{"order", "ordered"}, {"model", "digits"}, {"fields", "a"}}
	if err := Compare(a, []Property{a[2], a[0], a[1]}); err != nil {
		t.Errorf("the same in another order: %v", err)
	}
	err := Compare(a, []Property{{"order", "unordered"}, {"model", "digits"}, {"version", "3"}})
	want := `the job is not the one that wrote the checkpoint: order was "ordered" and is now "unordered"; ` +
		`fields was "a" and is now not set; version was not set and is now "3"`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestDescribe(t *testing.T) {
	var b strings.Builder
	if err := Describe(&b, sample()); err != nil {
		t.Fatal(err)
	}
	want := `checkpoint  7
job         digits
run         run-000001-00
attempt     2
created     2026-03-04T05:06:07.000000008Z
finished    no
identity
  order  ordered
  model  digits
counters
  read       450
  completed  440

source source: parallelism 2, 2 part(s), 104 bytes
  split  subtask  bytes  name
      0        0      4  position
      1        1    100  position

async infer: parallelism 2, 0 part(s), 0 bytes

sink sink: parallelism 1, 1 part(s), 0 bytes
  split  subtask  bytes  name
      -        0      0  "plan\x1b[31m"
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
