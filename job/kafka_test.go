package job

import (
	"reflect"
	"testing"
	"time"
)

const pipe = `name: a
source: {kafka: {brokers: ["a:1", "b:2"], topic: in, group: g, instance: i, session_timeout: 6s, transaction_timeout: 9s, start: "2026-01-31T12:00:00Z", on_expired: earliest, meta: kafka, discover: 5s, sasl: {mechanism: plain, user: u, password_file: p}}}
infer: {model: m, endpoint: "h:1", on_error: {record: dead_letter}}
sink: {kafka: {topic: out, key: {field: k.k}, headers: {tenant: {field: kafka.headers.tenant}, a b: {field: b}}, max_record: 5MB, partition: same, compression: zstd, format: raw, value: {field: v}}}
dead_letter: {kafka: {topic: failed}}
`

func TestEveryKafkaKey(t *testing.T) {
	spec, err := Parse("j.yaml", "/j", []byte(pipe))
	if err != nil {
		t.Fatal(err)
	}
	both := Kafka{Brokers: []string{"a:1", "b:2"}, SASL: &SASL{Mechanism: "plain", User: "u", PasswordFile: "/j/p"}}
	want := &KafkaSource{
		Kafka: both, Topics: []string{"in"}, Group: "g", Instance: "i", SessionTimeout: 6 * time.Second, TransactionTimeout: 9 * time.Second,
		Start: "time", At: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), Format: FormatJSON, Meta: "kafka", Discover: 5 * time.Second,
		SkipExpired: true,
	}
	if got := spec.Source.Kafka; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	sink := &KafkaSink{
		Kafka: both, Topic: "out", Key: Field{Field: "k.k"}, MaxRecord: 5_000_000, SamePartition: true, Compression: "zstd",
		Headers: []KafkaHeader{{Name: "a b", Field: Field{Field: "b"}}, {Name: "tenant", Field: Field{Field: "kafka.headers.tenant"}}},
		Format:  FormatRaw, Value: Field{Field: "v"},
	}
	if got := spec.Sink.Kafka; !reflect.DeepEqual(got, sink) {
		t.Errorf("got  %+v\nwant %+v", got, sink)
	}
}

// A list of brokers may be written without quotes.
func TestBrokers(t *testing.T) {
	const rest = "name: a\ninfer: {model: m, endpoint: 'h:1'}\nsink: {kafka: {topic: out}}\nsource: {kafka: {topic: in, group: g, brokers: "
	for text, want := range map[string][]string{
		"[kafka-1:9092, kafka-2:9092]": {"kafka-1:9092", "kafka-2:9092"},
		"[127.0.0.1:9092]":             {"127.0.0.1:9092"},
		"[\"[::1]:9092\", b:1]":        {"[::1]:9092", "b:1"},
		"kafka:9092":                   {"kafka:9092"},
		"[kafka: 9092]":                nil,
		"[{kafka: 9092}]":              nil,
		"[kafka:x: 9092]":              nil,
	} {
		spec, err := Parse("j.yaml", "/j", []byte(rest+text+"}}\n"))
		if (err == nil) != (want != nil) || err == nil && !reflect.DeepEqual(spec.Source.Kafka.Brokers, want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}

func TestKafkaFaults(t *testing.T) {
	const head = "name: a\ninfer: {model: m, endpoint: 'h:1'}\n"
	const source = "source: {kafka: {brokers: 'a:1', topic: in, group: g}}\n"
	const sink = "sink: {kafka: {topic: out}}\n"
	for name, c := range map[string]struct{ file, want string }{
		"meta that is a path": {head + "source: {kafka: {brokers: 'a:1', topic: in, group: g, meta: a.b}}\n" + sink,
			`j.yaml:3:61: source.kafka.meta: want the name of a field of the record itself, without dots and quotes, found "a.b"`},
		"on_expired that is none": {head + "source: {kafka: {brokers: 'a:1', topic: in, group: g, on_expired: latest}}\n" + sink,
			`j.yaml:3:67: source.kafka.on_expired: want fail or earliest, found "latest"`},
		"meta that is a number": {head + "source: {kafka: {brokers: 'a:1', topic: in, group: g, meta: 7}}\n" + sink,
			`j.yaml:3:61: source.kafka.meta: want the name of a field that records do not have (in quotes, if it looks like a number or a truth value), found 7`},
		"meta and raw": {head + "source: {kafka: {brokers: 'a:1', topic: in, group: g, format: raw, meta: a}}\n" + sink,
			`j.yaml:3:68: source.kafka.meta: want no meta with format: raw, whose records have key, headers and the rest already`},
		"headers without fields": {head + source + "sink: {kafka: {topic: out, headers: {a: b, c: {}, d: {field: e..f}, '': {field: g}}}}\n",
			`j.yaml:4:41: sink.kafka.headers.a: want a mapping (key: value), found "b"
j.yaml:4:44: sink.kafka.headers.c.field: missing; want a field of the record, such as a or a.b
j.yaml:4:62: sink.kafka.headers.d.field: want a field of the record, such as a or a.b, found "e..f"
j.yaml:4:69: sink.kafka.headers: "" is not a valid name; want the name of a header`},
		"headers that are a list": {head + source + "sink: {kafka: {topic: out, headers: [a]}}\n",
			`j.yaml:4:37: sink.kafka.headers: want a mapping (key: value), found a list`},
		"a record that is too large": {head + source + "sink: {kafka: {topic: out, max_record: 1GiB}}\n",
			`j.yaml:4:40: sink.kafka.max_record: want a number of bytes from 1KiB to 64MiB, such as 64MiB or 500KB, found "1GiB"`},
		"no group": {head + "source: {kafka: {brokers: 'a:1', topic: in}}\n" + sink,
			`j.yaml:3:10: source.kafka.group: missing; want the name of a consumer group, which keeps the offsets and shares the partitions among processes`},
		"a group, and files": {head + source + "sink: {file: {path: out}}\n",
			`j.yaml:3:45: source.kafka.group: only a job from Kafka to Kafka has a consumer group; this job keeps its offsets in its checkpoints; leave it out`},
	} {
		_, err := Parse("j.yaml", "/j", []byte(c.file))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s:\ngot  %v\nwant %s", name, err, c.want)
		}
	}
}
