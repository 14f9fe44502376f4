package kafka

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
)

// The ready-made functions make a value of a record, and a record of a value.
func TestFormats(t *testing.T) {
	type reading struct{ Text string }
	v, err := JSON[reading](&Record{Value: []byte(`{"Text":"<a>"}`)})
	if err != nil || v != (reading{"<a>"}) {
		t.Errorf("%+v, %v", v, err)
	}
	for value, want := range map[string]string{"": "tombstone", "{": "it is not JSON of the wanted type: ", `{"Text":1}`: "it is not JSON of the wanted type: "} {
		r := &Record{Value: []byte(value)}
		if value == "" {
			r.Value = nil
		}
		if _, err := JSON[reading](r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", value, err, want)
		}
	}
	for key, want := range map[string][]byte{"": nil, "k": []byte("k")} {
		out, err := JSONValue(&async.Record[reading]{Value: v, Key: key})
		if err != nil || string(out.Value) != `{"Text":"<a>"}` || string(out.Key) != string(want) || (out.Key == nil) != (want == nil) {
			t.Errorf("%q: %s, key %q, %v", key, out.Value, out.Key, err)
		}
	}
	if _, err := JSONValue(&async.Record[func()]{}); err == nil {
		t.Error("a function is no JSON")
	}

	in := &Record{Value: []byte(" not JSON")}
	raw, err := Raw[json.RawMessage](in)
	if err != nil || &raw[0] != &in.Value[0] {
		t.Errorf("%s, %v; want the value itself", raw, err)
	}
	out, err := RawValue(&async.Record[json.RawMessage]{Value: raw, Key: "k"})
	if err != nil || &out.Value[0] != &in.Value[0] || string(out.Key) != "k" {
		t.Errorf("%+v, %v; want the value itself", out, err)
	}
}

// A source without Decode and a sink without Encode say so before the job starts.
func TestNoFormat(t *testing.T) {
	cfg := Config{Brokers: []string{"b:9092"}}
	for want, err := range map[string]error{
		"the source has no Decode; set one": NewSource(SourceConfig[int]{Config: cfg, Topics: Topics{Names: []string{"in"}}}).Validate(),
		"the sink has no Encode; set one":   NewSink(SinkConfig[int]{Config: cfg, Topic: "out"}).Validate(),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if _, err := GroupSource[int](NewGroup(GroupConfig{}), nil).Splits(t.Context()); !errors.Is(err, errNoDecode) {
		t.Error(err)
	}
}
