package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const withHeaders = `name: pipe
source: {kafka: {brokers: %[1]q, topic: in, group: g, meta: kafka}}
infer: {model: double, on_error: {record: dead_letter}, outputs: {y: {field: z}}}
sink: {kafka: {topic: out, key: {field: who}, headers: {tenant: {field: kafka.headers.tenant}, from: {field: kafka.partition}, none: {field: nosuch}}, max_record: 4KiB}}
dead_letter: {kafka: {topic: failed, headers: {class: {field: class}}, max_record: 2KiB}}
checkpoint: {interval: 50ms}
sidecar: {models: {double: "mock:double?input=x:FP32[1]"}}
`

// TestHeadersFromKafkaToKafka: everything that Kafka has besides the value is in the record, can
// become headers, and is kept with bad records.
func TestHeadersFromKafkaToKafka(t *testing.T) {
	s := newKafkaShell(t, 1, "in", "out", "failed")
	s.write("job.yaml", fmt.Sprintf(withHeaders, s.brokers))
	at := time.UnixMilli(1767323045678)
	s.produce(
		&kgo.Record{Topic: "in", Key: []byte("k\"1"), Value: []byte(" {\"x\":[1], \"who\":7 } "), Timestamp: at,
			Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte("a")}, {Key: "tenant", Value: []byte("b\n\xff")}}},
		&kgo.Record{Topic: "in", Value: []byte(`{"x":[2],"kafka":{"headers":{"tenant":"forged"}}}`), Timestamp: at},
		&kgo.Record{Topic: "in", Value: []byte(`{"x":[3]}`), Timestamp: at},
	)
	s.runWhile(func() { s.consume("out", 2); s.consume("failed", 1) }, "run", "job.yaml")
	out := s.consume("out", 2)
	const first = `{"x":[1], "who":7,"kafka":{"key":"k\"1","headers":{"tenant":"b\n` + "\uFFFD" + `"},"topic":"in","partition":0,"offset":0,"time":"2026-01-02T03:04:05.678Z"},"z":2}`
	const third = `{"x":[3],"kafka":{"topic":"in","partition":0,"offset":2,"time":"2026-01-02T03:04:05.678Z"},"z":6}`
	if string(out[0].Value) != first || string(out[1].Value) != third {
		t.Errorf("%s\n%s", out[0].Value, out[1].Value)
	}
	if got := fmt.Sprintf("%s %s", out[0].Key, out[0].Headers); got != "7 [{from 0} {tenant b\n\uFFFD}]" {
		t.Errorf("key and headers: %q", got)
	}
	if got := fmt.Sprintf("%q %s", out[1].Key, out[1].Headers); got != `"" [{from 0}]` {
		t.Errorf("key and headers: %q", got)
	}
	l := s.consume("failed", 1)[0]
	s.contains("the letter", string(l.Value), `"forged"`, `the record has a field \"kafka\", and the source adds`, `"topic":"in","partition":0`, `"position":1,`)
	if fmt.Sprintf("%s", l.Headers) != "[{class record}]" {
		t.Errorf("headers of the letter: %s", l.Headers)
	}
}

// TestBadRecordsFromKafka: the policy for bad records applies to a value that is not JSON, is not
// an object or does not fit the model, to a tombstone, and to a result that is too large for the
// sink's topic. Other records are not affected.
func TestBadRecordsFromKafka(t *testing.T) {
	s := newKafkaShell(t, 1, "in", "out", "failed")
	s.write("job.yaml", fmt.Sprintf(withHeaders, s.brokers))
	big := strings.Repeat("b", 4000)
	bad := map[string]string{
		`5`:                           "the record is a number; want one JSON object",
		`"text"`:                      "the record is a string; want one JSON object",
		`[1]`:                         "the record is an array; want one JSON object",
		`null`:                        "want one JSON object",
		`{"y":1}`:                     `field "x" is missing`,
		`{"x":"one"}`:                 `field "x" holds a string`,
		`{"x":[1]`:                    "invalid JSON",
		`{"x":[1]}}`:                  "",
		`{"a":"}`:                     "",
		``:                            "the record is empty",
		`{"x":[1],"b":"` + big + `"}`: "may have 4096 (max_record)",
		`{"x":[1],"b":"` + strings.Repeat("\u00e4\\n", 20_000) + `"}`: "may have 4096 (max_record)",
		`{"x":[1],"who":"` + strings.Repeat("k", 2000) + `"}`:         "may have 4096 (max_record)",
		strings.Repeat("\xff", 5000):                                  "want one JSON object",
	}
	values := []*kgo.Record{{Topic: "in", Value: []byte(`{"x":[1]}`)}}
	for _, v := range slices.Sorted(maps.Keys(bad)) {
		values = append(values, &kgo.Record{Topic: "in", Value: []byte(v), Key: []byte("k")}, &kgo.Record{Topic: "in", Value: []byte(`{"x":[1]}`)})
	}
	// a tombstone with a key that fits nowhere
	values = append(values, &kgo.Record{Topic: "in", Key: []byte(strings.Repeat("key", 2000))})
	s.produce(values...)
	s.runWhile(func() {
		if a, b := len(s.consume("out", len(bad)+1)), len(s.consume("failed", len(bad)+1)); a != len(bad)+1 || b != len(bad)+1 {
			t.Errorf("%d results and %d letters; want %d of each", a, b, len(bad)+1)
		}
	}, "run", "job.yaml")
	letters := s.consume("failed", len(bad)+1)
	for i, r := range letters {
		var l struct {
			Record              json.RawMessage
			Text, Part          *string
			Base64              []byte
			Class, Error, Topic string
			Partition, Size     int
			Position            int
		}
		if err := json.Unmarshal(r.Value, &l); err != nil || l.Class != "record" || l.Topic != "in" || len(r.Value) > 2048 {
			t.Errorf("%d bytes, %v: %.200s", len(r.Value), err, r.Value)
			continue
		}
		if i == len(bad) {
			if len(r.Key) != 0 || l.Text == nil || *l.Text != "" {
				t.Errorf("the tombstone: %.200s, a key of %d bytes", r.Value, len(r.Key))
			}
			continue
		}
		in := string(values[l.Position].Value)
		want, known := bad[in]
		if !known || !strings.Contains(l.Error, want) || string(r.Key) != "k" {
			t.Errorf("%s\n%s; want %q", r.Value, l.Error, want)
		}
		switch {
		case l.Part != nil:
			if l.Size < len(in) || in[0] != 0xff && !strings.HasPrefix(in, *l.Part) || in[0] != 0xff && len(*l.Part) < 50 {
				t.Errorf("%d of %d bytes: %s", l.Size, len(in), r.Value)
			}
		case l.Text != nil && *l.Text != in, l.Base64 != nil && string(l.Base64) != in, l.Record != nil && !strings.HasPrefix(string(l.Record), strings.TrimSuffix(in, "}")):
			t.Errorf("%s\nof %s", r.Value, in)
		}
	}
}

// TestRawResults: a result without the field to be written counts as a bad record.
func TestRawResults(t *testing.T) {
	s := newKafkaShell(t, 1, "out")
	s.write("in.jsonl", `{"x":[1],"id":"a"}`+"\n"+`{"x":[1]}`+"\n"+`{"x":[1],"id":"c"}`+"\n")
	s.write("job.yaml", fmt.Sprintf(`name: raw
source: {file: {path: in.jsonl}}
infer: {model: double, on_error: {record: drop}, outputs: {y: {field: z}}}
sink: {kafka: {brokers: %q, topic: out, format: raw, value: {field: id}}}
sidecar: {models: {double: "mock:double?input=x:FP32[1]"}}
`, s.brokers))
	s.contains("stdout", s.run(0, "run", "job.yaml").out, "1 records failed and were dropped")
	if out := s.consume("out", 2); string(out[0].Value) != "a" || string(out[1].Value) != "c" {
		t.Errorf("%s, %s", out[0].Value, out[1].Value)
	}
}

// TestBadRecordIsNamed: the error of a job that ends at a record has the record's place in Kafka.
func TestBadRecordIsNamed(t *testing.T) {
	s := newKafkaShell(t, 2, "in", "out")
	s.write("job.yaml", strings.NewReplacer(", on_error: {record: dead_letter}", "", "dead_letter: {kafka: {topic: failed, headers: {class: {field: class}}, max_record: 2KiB}}\n", "").
		Replace(fmt.Sprintf(withHeaders, s.brokers)))
	s.produce(&kgo.Record{Topic: "in", Partition: 1, Value: []byte(`{"x":[1]}`)}, &kgo.Record{Topic: "in", Partition: 1, Value: []byte("5")})
	s.contains("stderr", s.run(1, "run", "job.yaml").errors, "the record is in the topic in, partition 1, offset 1")
}
