package kafka

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream"
)

// writeAt writes a record whose time is any number, as other clients can.
func (b *broker) writeAt(topic string, ms int64) {
	b.t.Helper()
	value := fmt.Appendf(nil, "%d", ms)
	rec := kmsg.Record{Value: value}
	rec.Length = int32(len(rec.AppendTo(nil)) - 1)
	batch := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, FirstTimestamp: ms, MaxTimestamp: ms,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: 1, Records: rec.AppendTo(nil),
	}
	raw := batch.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	part := kmsg.NewProduceRequestTopicPartition()
	part.Records = raw
	to := kmsg.NewProduceRequestTopic()
	to.Topic, to.Partitions = topic, append(to.Partitions, part)
	req.Topics = append(req.Topics, to)
	cl := b.client(kgo.MaxVersions(kversion.V3_0_0())) // topics by name
	defer cl.Close()
	resp, err := cl.Broker(0).Request(b.t.Context(), req)
	if err == nil {
		err = kerr.ErrorForCode(resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// A time out of range does no harm: no record gets it, and no watermark follows it. It is counted,
// and logged once.
func TestTimesOutOfRange(t *testing.T) {
	const day = 1_700_000_000_000 // a day in 2023
	for _, ms := range []int64{
		-1, -2, -62_135_596_800_000, day * 1000, day*1000 + 213*24*3600_000_000/2, day * 1_000_000, 253_402_300_800_000, 1<<63 - 1,
	} {
		// As the client makes it.
		if got := EventTime(&Record{Timestamp: time.Unix(0, ms*1e6)}); got != async.BadTime {
			t.Errorf("%d is %d", ms, got)
		}
	}
	for _, ms := range []int64{0, 1, day, 4_102_444_800_000} {
		if got := EventTime(&Record{Timestamp: time.Unix(0, ms*1e6)}); got != async.EventTime(ms) {
			t.Errorf("%d is %d", ms, got)
		}
	}
	if got := EventTime(&Record{}); got != async.NoTime {
		t.Errorf("none is %d", got)
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "in")
		for _, ms := range []int64{day, -1, day * 1000, day + 5000, day * 1_000_000, day + 6000} {
			b.writeAt("in", ms)
		}
		var log lines
		j := stream.New("j", stream.Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), Checkpoint: often.Checkpoint})
		from := stream.From(j, b.source(Topics{Names: []string{"in"}}), stream.BoundedOutOfOrderness(time.Second))
		out := stream.Collect(stream.Map(from, func(v []byte) (json.RawMessage, error) { return v, nil }))
		run := j.Start(t.Context())
		b.await(run, 6)
		p := run.Progress()
		if mark := p.Worked[0].Watermark; mark != day+6000-1000-1 {
			t.Errorf("the watermark is at %v", mark.Time())
		}
		if p.Untimed != 3 || bytes.Count(log.b.Bytes(), []byte("out of range")) != 1 {
			t.Errorf("%d are counted; the log says\n%s", p.Untimed, log.b.String())
		}
		run.Stop()
		run.Wait()
		var times []async.EventTime
		for _, r := range out.Records() {
			times = append(times, r.Time)
		}
		if want := fmt.Sprint([]async.EventTime{day, async.NoTime, async.NoTime, day + 5000, async.NoTime, day + 6000}); fmt.Sprint(times) != want {
			t.Errorf("the times are %v; want %v", times, want)
		}
	})
}
