package kafkatopics

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestRawFromKafka: the record of format raw has the value, and all else that Kafka has.
func TestRawFromKafka(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	for want, r := range map[string]*kgo.Record{
		`{"value":"a","key":"k","headers":{"h":"v"},"topic":"t","partition":3,"offset":9,"time":"2026-01-02T03:04:05.006Z"}`: {
			Value: []byte("a"), Key: []byte("k"), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}},
		`{"value":null,"topic":"t","partition":3,"offset":9,"time":"2026-01-02T03:04:05.006Z"}`:                 {},
		`{"value":null,"base64":"/w==","topic":"t","partition":3,"offset":9,"time":"2026-01-02T03:04:05.006Z"}`: {Value: []byte{0xff}},
	} {
		r.Topic, r.Partition, r.Offset, r.Timestamp = "t", 3, 9, at
		got, err := rawRecord(r)
		if err != nil || string(got) != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
}

// An invalid time is left out.
func TestMetaWithoutTime(t *testing.T) {
	for _, at := range []time.Time{{}, time.UnixMilli(-1), time.Unix(0, 1<<62), time.UnixMilli(-6_400_000_000_000)} {
		got, err := rawRecord(&kgo.Record{Topic: "t", Timestamp: at})
		if want := `{"value":null,"topic":"t","partition":0,"offset":0}`; err != nil || string(got) != want {
			t.Errorf("%v: %s, %v; want %s", at, got, err, want)
		}
	}
}

// TestMetaAllocatesOnce: adding the meta field allocates one slice.
func TestMetaAllocatesOnce(t *testing.T) {
	r := &kgo.Record{Topic: "t", Key: []byte("key"), Value: []byte(`{"x":[1,2,3]}`), Timestamp: time.UnixMilli(1), Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("b")}}}
	var out Record
	if n := testing.AllocsPerRun(100, func() { out = withMeta(r, "kafka") }); n > 1 {
		t.Errorf("%v allocations", n)
	}
	if !json.Valid(out) {
		t.Error(string(out))
	}
	for range 40 { // many headers
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "a", Value: []byte("last")})
	}
	if out := withMeta(r, "kafka"); !json.Valid(out) || strings.Count(string(out), "last") != 1 {
		t.Error(string(out))
	}
}
