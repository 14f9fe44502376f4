package kafka

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/stream"
)

// partition names one. It is what a checkpoint keeps of a split.
type partition struct {
	Topic string `json:"topic"`
	ID    int32  `json:"partition"`
}

func (p partition) String() string { return fmt.Sprintf("%s, partition %d", p.Topic, p.ID) }

func comparePartitions(a, b partition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.ID, b.ID))
}

func (p partition) split(start int64) stream.Split {
	data, err := json.Marshal(p)
	if err != nil {
		panic(err) // a text and a number always have a form
	}
	return stream.Split{Data: data, Start: start}
}

// PartitionOf returns the partition that a split of a Source stands for.
func PartitionOf(s stream.Split) (topic string, id int32, err error) {
	p, err := partitionOf(s)
	return p.Topic, p.ID, err
}

func partitionOf(s stream.Split) (p partition, err error) {
	if err := json.Unmarshal(s.Data, &p); err != nil || p.Topic == "" || p.ID < 0 {
		return p, fmt.Errorf("kafka: the split's description is damaged: %.100q", s.Data)
	}
	return p, nil
}

// listing asks brokers about topics and offsets.
type listing struct {
	cfg   *Config
	admin *kadm.Client
	match func(string) bool
	names []string // nil: every topic is asked for
}

func newListing(c *Config, cl *kgo.Client, t Topics, match func(string) bool) *listing {
	return &listing{c, kadm.NewClient(cl), match, t.Names}
}

// partitions are those that there are, in order.
func (l *listing) partitions(ctx context.Context) ([]partition, error) {
	topics, err := l.admin.ListTopics(ctx, l.names...)
	if err != nil {
		return nil, l.cfg.asked("asking the brokers for topics", err)
	}
	var all []partition
	for _, t := range topics {
		switch {
		case !l.match(t.Topic):
			continue
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition):
			return nil, fmt.Errorf("kafka: there is no topic %q; create it, or check its name", t.Topic)
		case t.Err != nil:
			return nil, fmt.Errorf("kafka: the topic %q: %w", t.Topic, refused(t.Err))
		}
		for id := range t.Partitions {
			all = append(all, partition{t.Topic, id})
		}
	}
	if len(all) == 0 && l.names == nil {
		return nil, errors.New("kafka: the pattern matches no topic")
	}
	slices.SortFunc(all, comparePartitions)
	return all, nil
}

// maxMessage is how many bytes the brokers take for a topic at once, if they tell.
func (l *listing) maxMessage(ctx context.Context, topic string) (most int, known bool) {
	all, err := l.admin.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return 0, false
	}
	for _, c := range all {
		for _, p := range c.Configs {
			if p.Key == "max.message.bytes" {
				most, err = strconv.Atoi(p.MaybeValue())
				return most, c.Err == nil && err == nil
			}
		}
	}
	return 0, false
}

// offsets returns where each partition begins, ends, or was at a time.
func (l *listing) offsets(ctx context.Context, s Start, of []partition) (map[partition]int64, error) {
	if len(of) == 0 {
		return nil, nil
	}
	var topics []string
	for _, p := range of {
		if !slices.Contains(topics, p.Topic) {
			topics = append(topics, p.Topic)
		}
	}
	var listed kadm.ListedOffsets
	var err error
	switch s.kind {
	case latest:
		listed, err = l.admin.ListEndOffsets(ctx, topics...)
	case timestamp:
		listed, err = l.admin.ListOffsetsAfterMilli(ctx, s.at.UnixMilli(), topics...)
	default:
		listed, err = l.admin.ListStartOffsets(ctx, topics...)
	}
	if err != nil {
		return nil, l.cfg.asked("asking the brokers for offsets", err)
	}
	out := map[partition]int64{}
	for _, p := range of {
		o, ok := listed.Lookup(p.Topic, p.ID)
		if !ok {
			return nil, fmt.Errorf("kafka: %s: the brokers say no offset of it; was the topic deleted?", p)
		}
		if o.Err != nil {
			return nil, fmt.Errorf("kafka: %s: %w", p, refused(o.Err))
		}
		out[p] = o.Offset
	}
	return out, nil
}
