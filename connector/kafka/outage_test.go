package kafka

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/trace"
)

// A commit that fails is tolerated, and nothing comes for a while: no offset is committed past
// results that were never published.
func TestToleratedCommitThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "in", "out")
		b.fill("in", 1, 0, 10)
		var failed atomic.Bool
		b.fake.ControlKey(int16(kmsg.EndTxn), func(req kmsg.Request) (kmsg.Response, error, bool) {
			b.fake.KeepControl()
			if failed.Swap(true) {
				return nil, nil, false
			}
			resp := req.ResponseKind().(*kmsg.EndTxnResponse)
			resp.ErrorCode = kerr.UnknownServerError.Code
			return resp, nil, true
		})
		g := NewGroup(b.group("g"))
		defer g.Close()
		cfg := often
		cfg.Checkpoint.TolerableFailures = 5
		run := job(g, cfg, answer).Start(t.Context())
		time.Sleep(3 * time.Second)
		if p := run.Progress(); p.CheckpointsFailed == 0 {
			t.Errorf("no checkpoint failed: %+v", p)
		}
		b.fill("in", 1, 10, 20)
		time.Sleep(3 * time.Second)
		run.Stop()
		if err := run.Wait(); !errors.Is(err, stream.ErrStopped) {
			t.Error(err)
		}
		b.check(b.committed("out"), 1, 20, true)
	})
}

// toFiles is a job from a topic to files.
func toFiles(dir string, cfg Config, fn func(context.Context, []byte) ([]byte, error)) *stream.Job {
	j := stream.New("j", often)
	s := NewSource(SourceConfig[[]byte]{Config: cfg, Topics: Topics{Names: []string{"in"}}, Decode: Raw[[]byte]})
	answers := stream.OrderedWait(stream.From(j, s), async.Func(fn, 64), ordered)
	lines := stream.Map(answers, func(v []byte) (json.RawMessage, error) { return json.Marshal(string(v)) })
	stream.To(lines, file.NewSink(file.SinkConfig[json.RawMessage]{Encode: file.RawLine, Dir: dir}))
	return j
}

// A record fails while the brokers are away. The restart then cannot ask from where the source can
// be read. The restart strategy applies to that failure as to any other.
func TestRestartWhileBrokersAreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "in")
		b.fill("in", 1, 0, 10)
		cut := &severed{b: b}
		cfg := b.config()
		cfg.Options = []kgo.Opt{kgo.Dialer(cut.dial)}
		var failed atomic.Bool
		run := toFiles(t.TempDir(), cfg, func(ctx context.Context, v []byte) ([]byte, error) {
			if string(v) == "0/10" && !failed.Swap(true) {
				cut.sever()
				return nil, errors.New("the server died with the brokers")
			}
			return answer(ctx, v)
		}).Start(t.Context())
		b.await(run, 10)
		b.fill("in", 1, 10, 20)
		time.Sleep(time.Minute)
		cut.mend()
		b.await(run, 20)
		run.Stop()
		if err := run.Wait(); !errors.Is(err, stream.ErrStopped) || run.Progress().Restarts == 0 {
			t.Error(err, run.Progress().Restarts)
		}
	})
}

// Reads that fail now and then do not count as restarts without progress, if records come between
// the failures. Without records between them, they do not count if the failure may pass.
func TestReadsThatFailNowAndThen(t *testing.T) {
	for code, records := range map[*kerr.Error]int{kerr.TopicAuthorizationFailed: 10, kerr.KafkaStorageError: 0} {
		synctest.Test(t, func(t *testing.T) {
			b := newBroker(t, 1, "in")
			var refuse atomic.Bool
			b.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
				b.fake.KeepControl()
				r := req.(*kmsg.FetchRequest)
				if len(r.Topics) == 0 || !refuse.CompareAndSwap(true, false) {
					return nil, nil, false
				}
				resp := req.ResponseKind().(*kmsg.FetchResponse)
				for _, asked := range r.Topics {
					topic := kmsg.NewFetchResponseTopic()
					topic.Topic, topic.TopicID = asked.Topic, asked.TopicID
					for _, p := range asked.Partitions {
						part := kmsg.NewFetchResponseTopicPartition()
						part.Partition, part.ErrorCode = p.Partition, code.Code
						topic.Partitions = append(topic.Partitions, part)
					}
					resp.Topics = append(resp.Topics, topic)
				}
				return resp, nil, true
			})
			b.fill("in", 1, 0, 10)
			n := 10
			run := toFiles(t.TempDir(), b.config(), answer).Start(t.Context())
			for range 5 {
				b.await(run, int64(n))
				time.Sleep(time.Minute)
				refuse.Store(true)
				time.Sleep(time.Minute)
				b.fill("in", 1, n, n+records)
				n += records
			}
			b.await(run, int64(n))
			run.Stop()
			if err := run.Wait(); !errors.Is(err, stream.ErrStopped) {
				t.Errorf("%v: %v", code, err)
			}
		})
	}
}

// While brokers are away a writer holds a bounded number of bytes.
func TestWriterIsBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "out")
		cut := &severed{b: b}
		cfg := b.config()
		cfg.Options = []kgo.Opt{kgo.Dialer(cut.dial)}
		cut.sever()
		s := NewSink(SinkConfig[[]byte]{Config: cfg, Topic: "out", Encode: func(r *async.Record[[]byte]) (*Record, error) { return &Record{Value: r.Value}, nil }})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w, err := s.Open(ctx, async.Subtask{})
		if err != nil {
			t.Fatal(err)
		}
		value := make([]byte, 900_000) // one array, so that the test itself needs no memory
		for range 1000 {
			if err = w.Write([]async.Record[[]byte]{{Value: value}}); err != nil {
				break
			}
		}
		if n := w.(*writer[[]byte]).cl.BufferedProduceBytes(); n > mostRecord+overhead || err == nil {
			t.Errorf("%d bytes are buffered; %v", n, err)
		}
		w.Close()
	})
}

// A record of the greatest size does not fail because it is traced.
func TestTracedRecordOfTheGreatestSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 1, "out")
		s := NewSink(SinkConfig[[]byte]{Config: b.config(), Topic: "out", Encode: func(r *async.Record[[]byte]) (*Record, error) { return &Record{Value: r.Value}, nil }})
		c, err := s.Committer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		w, err := s.Open(t.Context(), async.Subtask{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		r := async.Record[[]byte]{Value: bytes.Repeat([]byte{'x'}, DefaultMaxRecord),
			Trace: trace.Parse([]byte("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), []byte("a=1"))}
		if err := w.Write([]async.Record[[]byte]{r}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Prepare(t.Context(), 1); err != nil {
			t.Error(err)
		}
	})
}

// A failure that repeats counts as no progress. A failure that may pass does not.
func TestPassingFailures(t *testing.T) {
	for err, passes := range map[error]bool{
		&net.OpError{Op: "dial", Err: errors.New("refused")}: true,
		fmt.Errorf("reading: %w", io.EOF):                    true,
		context.DeadlineExceeded:                             true,
		kerr.NotLeaderForPartition:                           true,
		kerr.CorruptMessage:                                  false,
		kerr.TopicAuthorizationFailed:                        false,
		errors.New("invalid CRC"):                            false,
	} {
		if isPassing(err) != passes {
			t.Errorf("%v: %v", err, !passes)
		}
	}
}
