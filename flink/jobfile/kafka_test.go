package jobfile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tensorferry/tensorferry/flink"
)

// sink is the sink of a job, with these keys of sink.kafka, or that of its dead letters.
func (b *broker) sink(keys string, letters bool) *kafkaFn {
	b.Helper()
	text := strings.NewReplacer("h:1", b.address(), "topic: out", "topic: out"+keys).Replace(pipe)
	text += "  on_error: {record: dead_letter}\ndead_letter: {kafka: {topic: failed}}\n"
	fn := &kafkaFn{Job: textOf(b.T, load(b.T, text)), Letters: letters}
	if err := fn.Setup(); err != nil {
		b.Fatal(err)
	}
	return fn
}

// bundle writes records.
func (b *broker) bundle(fn *kafkaFn, records ...flink.Record) error {
	fn.StartBundle(b.Context())
	for _, r := range records {
		if err := fn.ProcessElement(b.Context(), beam.EventTime(0), r); err != nil {
			return err
		}
	}
	return fn.FinishBundle(b.Context())
}

func (b *broker) good(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func TestTopic(t *testing.T) {
	b := newBroker(t, 3, "out", "failed")
	fn := b.sink(", partition: same, headers: {user: {field: u}}", false)
	b.good(b.bundle(fn)) // nothing
	b.good(b.bundle(fn, record(2, 5, `{"u":"x"}`), record(0, 7, `{}`), record(1<<topicShift|1, 0, `{"u":3}`)))
	const want = "0 k7={}\n1 k0={\"u\":3} user:3\n2 k5={\"u\":\"x\"} user:x"
	if got := b.holds("out", 3); got != want {
		t.Errorf("the topic has\n%s\nwant\n%s", got, want)
	}
	// The producer is kept for the next bundle, and what an abandoned bundle has gathered is
	// nobody's.
	fn.StartBundle(t.Context())
	b.good(fn.ProcessElement(t.Context(), beam.EventTime(0), record(0, 8, `"abandoned"`)))
	b.good(b.bundle(fn, record(0, 9, `{"a":1}`)))
	if got := b.holds("out", 4); got != "0 k7={}\n0 k9={\"a\":1}\n1 k0={\"u\":3} user:3\n2 k5={\"u\":\"x\"} user:x" {
		t.Errorf("the topic has\n%s", got)
	}

	letters := b.sink(", key: {field: a}", true)
	b.good(b.bundle(letters, record(1, 3, `{"record":{}}`)))
	if got := b.holds("failed", 1); !strings.HasSuffix(got, ` k3={"record":{}}`) {
		t.Errorf("the topic has\n%s", got)
	}
	keyed := b.sink(", key: {field: a}", false)
	b.good(b.bundle(keyed, record(1, 3, `{"a":"by field"}`)))
	if got := b.holds("out", 5); !strings.Contains(got, ` by field={"a":"by field"}`) {
		t.Errorf("the topic has\n%s", got)
	}
}

// Many records are written before the end, and all are there behind it. In between the sink has no
// producer that could be taken for abandoned.
func TestTopicManyRecords(t *testing.T) {
	b := newBroker(t, 1, "out", "failed")
	fn := b.sink("", false)
	fn.StartBundle(t.Context())
	const n = writeRecords + 10
	for i := range int64(n) {
		b.good(fn.ProcessElement(t.Context(), beam.EventTime(0), record(0, i, fmt.Sprintf(`{"n":%d}`, i))))
	}
	b.holds("out", writeRecords)
	closeIdle() // as if the bundle did nothing for long
	b.good(fn.FinishBundle(t.Context()))
	if got := strings.Count(b.holds("out", n), "\n") + 1; got != n {
		t.Errorf("%d records", got)
	}
	// Large ones too.
	fn.StartBundle(t.Context())
	large := `"` + strings.Repeat("x", 700_000) + `"`
	for i := range int64(writeBytes/700_000 + 1) {
		b.good(fn.ProcessElement(t.Context(), beam.EventTime(0), record(0, i, large)))
	}
	if len(fn.recs) > 0 || fn.size > 0 {
		t.Errorf("%d records wait, with %d bytes", len(fn.recs), fn.size)
	}
}

func TestTopicErrors(t *testing.T) {
	b := newBroker(t, 1, "out", "failed")
	if err := (&kafkaFn{Job: "{"}).Setup(); err == nil {
		t.Error("half a job is one")
	}
	fn := b.sink(", max_record: 1KiB", false)
	wantError(t, b.bundle(fn, record(0, 4, `{"a":"`+strings.Repeat("x", 2000)+`"}`)), "sink: kafka: the result of split 0, position 4 cannot be written: the record has 2")
	b.good(b.bundle(fn, record(0, 5, "{}"))) // what failed is not in the next bundle

	// A broker that refuses: nothing is lost in silence, and the producer is not used again.
	producers := 0
	b.fake.ControlKey(int16(kmsg.InitProducerID), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.fake.KeepControl()
		producers++
		return nil, nil, false
	})
	b.fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, qt := range req.(*kmsg.ProduceRequest).Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic, rt.TopicID = qt.Topic, qt.TopicID
			for _, qp := range qt.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.ErrorCode = qp.Partition, kerr.TopicAuthorizationFailed.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	wantError(t, b.bundle(fn, record(0, 6, "{}")), "sink: kafka: writing to the topic out: ")
	b.good(b.bundle(fn, record(0, 7, "{}")))
	if got := b.holds("out", 2); got != "0 k5={}\n0 k7={}" {
		t.Errorf("the topic has\n%s", got)
	}
	if producers == 0 {
		t.Error("the producer that failed was used again")
	}

	if err := b.fake.DeleteTopic("failed"); err != nil {
		t.Fatal(err)
	}
	wantError(t, b.bundle(b.sink("", true), record(0, 0, "{}")), `sink: kafka: there is no topic "failed"`)
}
