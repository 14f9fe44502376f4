package kafka

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

// How large records may be: the sink's bound, the topic's, and what a topic that takes more is
// sent.
func TestMaxRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "in", "out", "small", "large")
		cl := b.client()
		defer cl.Close()
		admin := kadm.NewClient(cl)
		for topic, most := range map[string]string{"small": "5000", "large": "6000000"} {
			if _, err := admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &most}}, topic); err != nil {
				t.Fatal(err)
			}
		}
		encode := func(r *async.Record[[]byte]) (*Record, error) {
			return &Record{Key: []byte("key"), Value: r.Value, Headers: []Header{{Key: "h", Value: []byte("v")}}}, nil
		}
		const beside = 3 + 1 + 1 + 10 // key and header
		for _, c := range []struct {
			topic string
			most  int
			size  int
			says  string
		}{
			{"out", 0, DefaultMaxRecord - beside, ""},
			{"out", 0, DefaultMaxRecord - beside + 1, "split 0, position 0 cannot be written: the record has 1000001 bytes; the largest record is 1000000 bytes"},
			{"out", 100, 101, "the largest record is 100 bytes"},
			{"out", -1, 1, "the bound of a record is -1 bytes; want 1 to 67108864"},
			{"small", 0, 1, "the topic small takes records of at most 5000 bytes (max.message.bytes), but the sink may write records of 1000000 bytes; set the largest record to 4872 bytes or less"},
			{"small", 4872, 4872 - beside, ""},
			{"large", 5_000_000, 5_000_000 - beside, ""},
			{"nosuch", 0, 1, `there is no topic "nosuch"; create it`},
		} {
			value := []byte(strings.Repeat("v", c.size))
			g := NewGroup(b.group("g"))
			for i, sink := range []connector.Sink[[]byte]{
				NewSink(SinkConfig[[]byte]{Config: b.config(), Topic: c.topic, Encode: encode, MaxRecord: c.most}),
				GroupSink(g, SinkConfig[[]byte]{Topic: c.topic, Encode: encode, MaxRecord: c.most}),
			} {
				// The offsets of a Group come from its source, so its sink alone is
				// a transaction without any.
				w, err := openWriter(t, sink)
				if err == nil {
					if err = w.Write([]async.Record[[]byte]{{Value: value}}); err == nil {
						_, err = w.Prepare(t.Context(), 1)
					}
					w.Close()
				}
				if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
					t.Errorf("sink %d: %d bytes to %s: %v; want %q", i, c.size, c.topic, err, c.says)
				}
				if strings.Contains(c.says, "the largest record is") && async.VerdictOf(err).Class != async.BadRecord {
					t.Errorf("sink %d: %v is of the class %v", i, err, async.VerdictOf(err).Class)
				}
			}
			g.Close()
		}
	})
}

func openWriter(t *testing.T, sink connector.Sink[[]byte]) (connector.Writer[[]byte], error) {
	if _, err := sink.Committer(t.Context()); err != nil {
		return nil, err
	}
	return sink.Open(t.Context(), async.Subtask{})
}
