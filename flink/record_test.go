package flink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/async"
)

func sameRecord(a, b Record) bool {
	return bytes.Equal(a.Value, b.Value) && a.Key == b.Key && a.Split == b.Split && a.Position == b.Position
}

func TestRecordCoder(t *testing.T) {
	for _, r := range []Record{
		{}, {Value: []byte(`{"a":1}`), Key: "k", Split: 3, Position: 1 << 40}, {Key: strings.Repeat("ü", 1000)},
		{Value: []byte{0, 0xff}, Key: "\x00\xff", Split: math.MinInt64, Position: math.MaxInt64}, {Split: -1, Position: -1},
	} {
		b := encodeRecord(r)
		got, err := decodeRecord(b)
		if err != nil || !sameRecord(got, r) {
			t.Errorf("%+v came back as %+v, error %v", r, got, err)
		}
		clear(b) // the buffer is Beam's
		if !sameRecord(got, r) {
			t.Errorf("%+v shares memory with its encoding", r)
		}
		b = encodeRecord(r)
		for n := range len(b) - len(r.Value) {
			if _, err := decodeRecord(b[:n]); !errors.Is(err, errRecord) {
				t.Fatalf("%+v cut to %d bytes: error %v", r, n, err)
			}
		}
	}
}

// Bytes that are no text come through as they are, and what was encoded before they did is read.
func TestFailedRecordCoder(t *testing.T) {
	for _, key := range []string{"", "k", "ü", "\xff\x00", "\uFFFD"} {
		f := FailedRecord{Record: Record{Value: []byte{0, 0xff}, Key: key, Split: 1, Position: math.MaxInt64}, Class: "record", Error: "why", Attempts: 2, At: -3}
		b, err := encodeFailed(f)
		got, derr := decodeFailed(b)
		if err != nil || derr != nil || !sameRecord(got.Record, f.Record) || got.Class != f.Class || got.Error != f.Error || got.Attempts != 2 || got.At != -3 {
			t.Errorf("%+v came back as %+v: %v, %v", f, got, err, derr)
		}
		before, err := json.Marshal(f)
		if got, derr := decodeFailed(before); err != nil || derr != nil || utf8.ValidString(key) && !sameRecord(got.Record, f.Record) {
			t.Errorf("%s was read as %+v: %v, %v", before, got, err, derr)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte{}, int64(0), int64(0), "", []byte{})
	f.Add(encodeRecord(Record{Value: []byte(`{}`), Key: "k", Split: 1, Position: -2}), int64(math.MinInt64), int64(7), "key", []byte(`{"x":1}`))
	f.Add([]byte{0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, int64(1), int64(1), "\xff", []byte{0})
	f.Fuzz(func(t *testing.T, b []byte, split, position int64, key string, value []byte) {
		if r, err := decodeRecord(b); err == nil {
			if again, err := decodeRecord(encodeRecord(r)); err != nil || !sameRecord(again, r) {
				t.Errorf("%+v came back as %+v, error %v", r, again, err)
			}
		}
		r := Record{Value: value, Key: key, Split: split, Position: position}
		if got, err := decodeRecord(encodeRecord(r)); err != nil || !sameRecord(got, r) {
			t.Errorf("%+v came back as %+v, error %v", r, got, err)
		}
	})
}

// wrap puts a JSON object into another.
type wrap struct{ Name string }

func (w wrap) Function() (async.Function[json.RawMessage, json.RawMessage], error) {
	return async.Func(func(_ context.Context, in json.RawMessage) (json.RawMessage, error) {
		if bytes.Contains(in, []byte("bad")) {
			return nil, errors.New("a bad one")
		}
		return fmt.Appendf(nil, `{%q:%s}`, w.Name, in), nil
	}, 4), nil
}

// linesFn emits records of two splits.
type linesFn struct{ N int }

func (f *linesFn) ProcessElement(_ []byte, emit func(beam.EventTime, Record)) {
	for i := range f.N {
		text := fmt.Sprintf(`{"id":%d}`, i)
		if i%10 == 9 {
			text = `"bad"`
		}
		emit(mtime.FromTime(time.Unix(int64(i), 0)), Record{Value: []byte(text), Key: fmt.Sprint("key", i), Split: int64(i % 2), Position: int64(i * 100)})
	}
}

func init() {
	RegisterRecords[wrap]()
	register.DoFn2x0[[]byte, func(beam.EventTime, Record)](&linesFn{})
	register.DoFn2x0[beam.EventTime, Record](&keepFn[Record]{})
	register.DoFn2x0[beam.EventTime, FailedRecord](&keepFn[FailedRecord]{})
}

func TestInferRecords(t *testing.T) {
	p, s := beam.NewPipelineWithRoot()
	lines := beam.ParDo(s, &linesFn{100}, beam.Impulse(s))
	results, failed, err := InferRecords(s, lines, wrap{"in"}, Config{Async: async.Config{Capacity: 8, OnError: async.OnError{Backend: async.DeadLetter}}})
	if err != nil {
		t.Fatal(err)
	}
	keep[Record](s, t, "results", results)
	keep[FailedRecord](s, t, "failed", failed)
	if err := run(t, p); err != nil {
		t.Fatal(err)
	}
	got, letters := keptOf(t, "results"), keptOf(t, "failed")
	if len(got) != 90 || len(letters) != 10 {
		t.Fatalf("%d results and %d dead letters", len(got), len(letters))
	}
	for i := range 100 {
		want := Record{Value: fmt.Appendf(nil, `{"in":{"id":%d}}`, i), Key: fmt.Sprint("key", i), Split: int64(i % 2), Position: int64(i * 100)}
		if i%10 == 9 {
			k := letters[0]
			letters = letters[1:]
			f := k.value.(FailedRecord)
			want.Value = []byte(`"bad"`)
			if !sameRecord(f.Record, want) || f.Class != "backend" || f.Attempts != 1 || f.At == 0 || f.Error != "a bad one" || k.at.Unix() != int64(i) {
				t.Fatalf("dead letter of %d: %+v", i, k)
			}
			continue
		}
		k := got[0]
		got = got[1:]
		if !sameRecord(k.value.(Record), want) || k.at.Unix() != int64(i) {
			t.Fatalf("result of %d: %+v; want %+v", i, k, want)
		}
	}
}

func TestInferRecordsFails(t *testing.T) {
	p, s := beam.NewPipelineWithRoot()
	if _, _, err := InferRecords(s, beam.ParDo(s, &linesFn{100}, beam.Impulse(s)), wrap{"in"}, Config{}); err != nil {
		t.Fatal(err)
	}
	err := run(t, p)
	if err == nil {
		t.Fatal("a record failed, and the pipeline did not")
	}
	if f := FailureIn(err.Error()); f == nil || f.Split != 1 || f.Position != 900 || f.Class != "backend" || f.Operator != "infer" {
		t.Errorf("%+v in %v", f, err)
	}
}

type unregisteredRecords struct{ wrap }

func TestInferRecordsRefuses(t *testing.T) {
	_, s := beam.NewPipelineWithRoot()
	lines := beam.ParDo(s, &linesFn{1}, beam.Impulse(s))
	try := func(_, _ beam.PCollection, err error) error { return err }
	windows := beam.WindowInto(s, window.NewFixedWindows(time.Minute), lines)
	for want, err := range map[string]error{
		"add func init() { flink.RegisterRecords[flink.unregisteredRecords]() }": try(InferRecords(s, lines, unregisteredRecords{}, Config{})),
		"the collection is not valid":                                            try(InferRecords(s, beam.PCollection{}, wrap{}, Config{})),
		"window its results":                                                     try(InferRecords(s, windows, wrap{}, Config{})),
		"the order is keyed":                                                     try(InferRecords(s, lines, wrap{}, Config{Async: async.Config{Order: async.Keyed}})),
		"flink: infer: ":                                                         try(InferRecords(s, beam.Create(s, 1), wrap{}, Config{})),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v; want %q in it", err, want)
		}
	}
}
