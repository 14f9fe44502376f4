package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/stream"
)

type reading struct {
	Sensor string  `json:"sensor"`
	Value  float64 `json:"value"`
}

// A job from one topic to another. Such a job has no end, so this one is stopped when its results
// are there. The broker is a fake one in this process.
func Example() {
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "readings", "doubled"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer broker.Close()
	cfg := kafka.Config{Brokers: broker.ListenAddrs()}
	client, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.ConsumeTopics("doubled"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, value := range []string{`{"sensor":"a","value":1.5}`, `{"sensor":"b","value":2}`} {
		r := &kafka.Record{Topic: "readings", Key: []byte("room 7"), Value: []byte(value)}
		if err := client.ProduceSync(ctx, r).FirstErr(); err != nil {
			fmt.Println(err)
			return
		}
	}

	j := stream.New("doubled", stream.Config{Checkpoint: stream.CheckpointConfig{Interval: 10 * time.Second}})
	readings := stream.From(j, kafka.NewSource(kafka.SourceConfig[reading]{
		Config: cfg,
		Topics: kafka.Topics{Names: []string{"readings"}},
		Decode: kafka.JSON[reading],
	}))
	doubled := stream.Map(readings, func(r reading) (reading, error) {
		r.Value *= 2
		return r, nil
	})
	stream.To(doubled, kafka.NewSink(kafka.SinkConfig[reading]{
		Config: cfg,
		Topic:  "doubled",
		Encode: kafka.JSONValue[reading],
	}))
	run := j.Start(ctx)
	for n := 0; n < 2; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			fmt.Println(err)
			break
		}
		fetches.EachRecord(func(r *kafka.Record) {
			fmt.Printf("%s: %s\n", r.Key, r.Value)
			n++
		})
	}
	run.Stop()
	if err := run.Wait(); !errors.Is(err, stream.ErrStopped) {
		fmt.Println(err)
	}
	// Output:
	// room 7: {"sensor":"a","value":3}
	// room 7: {"sensor":"b","value":4}
}
