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

	"github.com/tensorferry/tensorferry/connector"
)

// partition is a partition of a topic.
type partition struct {
	Topic string `json:"topic"`
	ID    int32  `json:"partition"`
}

func (p partition) String() string { return fmt.Sprintf("%s, partition %d", p.Topic, p.ID) }

func comparePartitions(a, b partition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.ID, b.ID))
}

// topicID distinguishes a topic from others that had the same name. It is empty if it is not known.
type topicID string

// splitForm is what a checkpoint keeps of a split. Those of earlier versions have no id.
type splitForm struct {
	partition
	TopicID topicID `json:"topic_id,omitempty"`
	// First: the split begins at the first record that exists, whichever that is.
	First bool `json:"first,omitempty"`
}

// split returns the split for a position in a partition.
func (p placed) split(start int64) connector.Split {
	data, err := json.Marshal(splitForm{p.partition, p.id, p.first})
	if err != nil {
		panic(err) // texts and numbers can always be written as JSON
	}
	return connector.Split{Data: data, Start: start}
}

// placedAt returns the position next of a split.
func placedAt(s connector.Split, next int64) (placed, error) {
	p, err := partitionOf(s)
	if err != nil {
		return placed{}, err
	}
	var f splitForm
	err = json.Unmarshal(s.Data, &f)
	return placed{p, f.TopicID, next, f.First && next == s.Start}, err
}

// PartitionOf returns the partition that a split of a Source reads.
func PartitionOf(s connector.Split) (topic string, id int32, err error) {
	p, err := partitionOf(s)
	return p.Topic, p.ID, err
}

func partitionOf(s connector.Split) (p partition, err error) {
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
	names []string           // the topics to ask for; nil: all topics
	ids   map[string]topicID // of the topics that were asked for last
}

func newListing(c *Config, cl *kgo.Client, t Topics, match func(string) bool) *listing {
	return &listing{cfg: c, admin: kadm.NewClient(cl), match: match, names: t.Names}
}

// partitions returns the existing partitions, in order.
func (l *listing) partitions(ctx context.Context) ([]partition, error) {
	topics, err := l.admin.ListTopics(ctx, l.names...)
	if err != nil {
		return nil, l.cfg.asked("asking the brokers for topics", err)
	}
	l.know(topics)
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

// know remembers the ids of topics. Old brokers do not have ids.
func (l *listing) know(topics kadm.TopicDetails) {
	l.ids = map[string]topicID{}
	for _, t := range topics {
		if t.Err == nil && t.ID != (kadm.TopicID{}) {
			l.ids[t.Topic] = topicID(t.ID.String())
		}
	}
}

// identify asks for the ids of the topics of partitions.
func (l *listing) identify(ctx context.Context, of []partition) error {
	names := topicsOf(of)
	if len(names) == 0 {
		return nil // without names, the brokers would list all topics
	}
	topics, err := l.admin.ListTopics(ctx, names...)
	if err != nil {
		return l.cfg.asked("asking the brokers for topics", err)
	}
	l.know(topics)
	return nil
}

// topicsOf returns the topics of partitions, each once.
func topicsOf(of []partition) (topics []string) {
	for _, p := range of {
		if !slices.Contains(topics, p.Topic) {
			topics = append(topics, p.Topic)
		}
	}
	return topics
}

// maxMessage returns how many bytes the brokers take for a topic at once. known is false if they do
// not say.
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
	topics := topicsOf(of)
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
			return nil, fmt.Errorf("kafka: %s: the brokers returned no offset for it; was the topic deleted?", p)
		}
		if o.Err != nil {
			return nil, fmt.Errorf("kafka: %s: %w", p, refused(o.Err))
		}
		out[p] = o.Offset
	}
	return out, nil
}

// splits returns the splits for partitions that begin at the offsets in at. first says that these
// are the offsets of their first records.
func (l *listing) splits(of []partition, at map[partition]int64, first bool) (all []connector.Split) {
	for _, p := range of {
		all = append(all, placed{p, l.ids[p.Topic], at[p], first}.split(at[p]))
	}
	return all
}
