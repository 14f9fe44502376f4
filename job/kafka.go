package job

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Kafka says how to reach brokers.
type Kafka struct {
	// Brokers are the brokers that are asked first, as host:port.
	Brokers []string
	// TLS is nil for plain connections.
	TLS *TLS
	// SASL is nil if the brokers do not ask for a user.
	SASL *SASL
}

// SASL is the user and password that the job shows to the brokers.
type SASL struct {
	// Mechanism is "plain", "scram-sha-256" or "scram-sha-512".
	Mechanism string
	User      string
	// PasswordFile is the file with the password. The end of its line does not count.
	PasswordFile string
}

// KafkaSource reads records from topics.
type KafkaSource struct {
	Kafka
	// Topics, or a Pattern of their names.
	Topics  []string
	Pattern string
	// Group is the consumer group. It is set if, and only if, the sink is Kafka too. Its members
	// share the partitions.
	Group string
	// Instance names this member of the group. Empty: a random name.
	Instance string
	// Start is where reading begins in partitions that have not been read before: "earliest",
	// "latest", or "time" together with At. Empty: the host's choice, which is the earliest.
	Start string
	At    time.Time
	// SkipExpired says that, if the next record no longer exists, reading continues at the first
	// existing one. Otherwise the job fails.
	SkipExpired bool
	// Format is FormatJSON or FormatRaw, and never empty.
	Format Format
	// Meta is the field into which a record of FormatJSON gets everything else that Kafka has of
	// it, such as key and headers. Empty: none.
	Meta string
	// Discover is how often the job looks for new partitions.
	Discover time.Duration
	// SessionTimeout is how long a member of the group may be silent before it counts as dead.
	// TransactionTimeout is the longest time from one checkpoint to the end of the next.
	SessionTimeout, TransactionTimeout time.Duration
	// Uncommitted says that records of transactions that are not committed are read too.
	Uncommitted bool
	// Watermark, if not 0, makes watermarks from the records' times. It is how much later than the
	// latest record another one may come.
	Watermark time.Duration
}

// KafkaSink writes records to a topic.
type KafkaSink struct {
	Kafka
	Topic string
	// Key is the field with the key of the written record. Empty: the key of the record that was
	// read.
	Key Field
	// Headers are the written record's headers, in the order of their names.
	Headers []KafkaHeader
	// MaxRecord is the largest size of a record with its key and headers, in bytes. 0: the host's
	// choice.
	MaxRecord int
	// SamePartition writes each result to the partition with the number of its record's partition.
	SamePartition bool
	// Compression is "none", "gzip", "snappy", "lz4" or "zstd"; empty: the host's choice.
	Compression string
	// Format is FormatJSON or FormatRaw, and never empty. With FormatRaw, Value is the field whose
	// value is written.
	Format Format
	Value  Field
}

// KafkaHeader is a header, and the field with its value. If a result lacks the field, it lacks the
// header.
type KafkaHeader struct {
	Name  string
	Field Field
}

// Format says what the value of a Kafka record contains.
type Format string

// The values of Format.
const (
	// FormatJSON: the value is the record.
	FormatJSON Format = "json"
	// FormatRaw: the value is any bytes. The record is an object with these bytes and everything
	// else that Kafka has of it, such as key, headers and time.
	FormatRaw Format = "raw"
)

var kafkaHeader = regexp.MustCompile(`^\S(.*\S)?$`)

const (
	brokersWant = "the brokers to ask first, as host:port, or a list of them"
	topicWant   = "a topic, or a list of them"
)

// texts reads a text or a list of texts.
func (d *decoder) texts(s *section, key, want string) []string {
	v, ok := s.values[key]
	if !ok {
		return nil
	}
	all := elements(v)
	if len(all) == 0 {
		d.fault(v.at, "%s: want %s, found an empty list", v.path, want)
	}
	var out []string
	for _, e := range all {
		if t, ok := joined(e.node); ok {
			out = append(out, t)
		} else if t := d.text(e, want); t != "" {
			out = append(out, t)
		}
	}
	return out
}

// joined returns the text of an element such as host:9092, which the parser takes for a mapping
// within [ and ], although no space follows the colon.
func joined(n ast.Node) (string, bool) {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) == 1 {
		n = m.Values[0]
	}
	m, ok := n.(*ast.MappingValueNode)
	if !ok {
		return "", false
	}
	port, ok := m.Value.(*ast.IntegerNode)
	if !ok {
		return "", false
	}
	host, ok := keyText(m.Key)
	at, end := position(port), position(m.Key)
	if !ok || at.Line != end.Line || at.Column != end.Column+len(host)+1 {
		return "", false
	}
	return host + ":" + port.GetToken().Value, true
}

// kafka reads what source and sinks have in common.
func (d *decoder) kafka(s *section) (k Kafka) {
	k.Brokers = d.texts(s, "brokers", brokersWant)
	for _, b := range k.Brokers {
		if !strings.Contains(b, ":") {
			d.fault(s.values["brokers"].at, "%s: want host:port, found %q", s.values["brokers"].path, b)
		}
	}
	if v, ok := s.values["tls"]; ok {
		k.TLS = d.tls(v)
	}
	if v, ok := s.values["sasl"]; ok {
		a := d.section(v, "mechanism", "user", "password_file")
		a.missing("mechanism", "plain, scram-sha-256 or scram-sha-512")
		a.missing("user", "a name")
		a.missing("password_file", "a file with the password")
		k.SASL = &SASL{
			Mechanism:    a.choice("mechanism", "plain", "scram-sha-256", "scram-sha-512"),
			User:         a.text("user", "a name"),
			PasswordFile: a.file("password_file", "a file with the password"),
		}
	}
	return k
}

func (s *section) format() Format {
	if f := s.choice("format", string(FormatJSON), string(FormatRaw)); f != "" {
		return Format(f)
	}
	return FormatJSON
}

func (d *decoder) kafkaSource(v value) *KafkaSource {
	s := d.section(v, "brokers", "topic", "pattern", "group", "instance", "session_timeout", "transaction_timeout", "start", "on_expired", "format", "meta", "discover", "uncommitted", "watermark", "tls", "sasl")
	s.missing("brokers", brokersWant)
	k := &KafkaSource{
		Kafka: d.kafka(s), Topics: d.texts(s, "topic", topicWant),
		Pattern:  s.text("pattern", "a regular expression for the names of topics"),
		Group:    s.text("group", "the name of a consumer group"),
		Instance: s.text("instance", "the name of this member of the group"),
		Format:   s.format(), Discover: s.duration("discover", ""),
		SessionTimeout: s.duration("session_timeout", ""), TransactionTimeout: s.duration("transaction_timeout", ""),
		Uncommitted: s.flag("uncommitted", false),
		Watermark:   s.duration("watermark", ""),
		SkipExpired: s.choice("on_expired", "fail", "earliest") == "earliest",
	}
	if !s.broken && s.has("topic") == s.has("pattern") {
		d.fault(v.at, "%s: want either topic or pattern", v.path)
	}
	if k.Meta = s.text("meta", "the name of a field that records do not have"); k.Meta != "" {
		switch v := s.values["meta"]; {
		case strings.ContainsAny(k.Meta, ".\"\\"):
			d.fault(position(v.node), "%s: want the name of a field of the record itself, without dots and quotes, found %q", v.path, k.Meta)
		case k.Format == FormatRaw:
			d.fault(v.at, "%s: want no meta with format: raw, whose records have key, headers and the rest already", v.path)
		}
	}
	if v, ok := s.values["start"]; ok {
		const want = "earliest, latest, or a time such as 2026-01-31T12:00:00Z"
		k.Start = d.text(v, want)
		if k.Start != "" && !slices.Contains([]string{"earliest", "latest"}, k.Start) {
			at, err := time.Parse(time.RFC3339, k.Start)
			if err != nil {
				d.wrong(v, want)
			}
			k.Start, k.At = "time", at
		}
	}
	return k
}

func (d *decoder) kafkaSink(v value) *KafkaSink {
	s := d.section(v, "brokers", "topic", "key", "headers", "max_record", "partition", "compression", "format", "value", "tls", "sasl")
	s.missing("topic", "the topic for the results")
	k := &KafkaSink{
		Kafka: d.kafka(s), Topic: s.text("topic", "the topic for the results"), Format: s.format(),
		SamePartition: s.choice("partition", "key", "same") == "same",
		Compression:   s.choice("compression", "none", "gzip", "snappy", "lz4", "zstd"),
	}
	if v, ok := s.values["key"]; ok {
		k.Key, _ = d.field(v, aField, fieldPath)
	}
	if v, ok := s.values["headers"]; ok {
		for _, h := range d.names(v, kafkaHeader, "the name of a header") {
			f, _ := d.field(h, aField, fieldPath)
			k.Headers = append(k.Headers, KafkaHeader{h.key, f})
		}
	}
	k.MaxRecord = int(s.size("max_record", 1<<10, 64<<20))
	if v, ok := s.values["value"]; ok {
		k.Value, _ = d.field(v, aField, fieldPath)
	}
	if !s.broken && s.has("value") != (k.Format == FormatRaw) {
		d.fault(v.at, "%s: want format: raw and value: {field: ...} together, or neither", v.path)
	}
	return k
}

// streams reports conflicts between the kafka sections and the rest of the file. A sink that names
// no brokers inherits the source's.
func (d *decoder) streams(s *Spec) {
	at := func(path string) Position { return place(d.at, path) }
	src := s.Source.Kafka
	inherit := func(k *KafkaSink, path string) {
		switch {
		case k == nil:
		case len(k.Brokers) == 0 && src != nil:
			k.Kafka = src.Kafka
		case len(k.Brokers) == 0:
			if _, given := d.at[path+".brokers"]; !given {
				d.fault(at(path), "%s.brokers: missing; want %s", path, brokersWant)
			}
		case src != nil && !slices.Equal(k.Brokers, src.Brokers):
			d.fault(at(path+".brokers"), "%s.brokers: want the source's brokers, or leave them out: one transaction cannot span two clusters", path)
		}
	}
	inherit(s.Sink.Kafka, "sink.kafka")
	var letters *KafkaSink
	if s.DeadLetter != nil {
		letters = s.DeadLetter.Kafka
		inherit(letters, "dead_letter.kafka")
	}
	if k := letters; k != nil && s.Sink.Kafka != nil && k.Topic != "" && k.Topic == s.Sink.Kafka.Topic {
		d.fault(at("dead_letter.kafka.topic"), "dead_letter.kafka.topic: want another topic than the sink's, %s", k.Topic)
	}
	pipe := src != nil && s.Sink.Kafka != nil
	for path, k := range map[string]*KafkaSink{"sink.kafka.partition": s.Sink.Kafka, "dead_letter.kafka.partition": letters} {
		if k != nil && k.SamePartition && !pipe {
			d.fault(at(path), "%s: only a job from Kafka to Kafka can keep the partition (same)", path)
		}
	}
	if src == nil {
		return
	}
	if !pipe {
		for _, key := range []string{"instance", "session_timeout", "transaction_timeout"} {
			if _, given := d.at["source.kafka."+key]; given {
				d.fault(at("source.kafka."+key), "source.kafka.%s: only a job from Kafka to Kafka has a consumer group, and the key is for its members; leave it out", key)
			}
		}
		if src.Group != "" {
			d.fault(at("source.kafka.group"), "source.kafka.group: only a job from Kafka to Kafka has a consumer group; this job keeps its offsets in its checkpoints; leave it out")
		}
		if letters != nil {
			d.fault(at("dead_letter.kafka"), "dead_letter.kafka: want dead_letter.file; only a job from Kafka to Kafka can publish results and dead letters together in topics")
		}
		return
	}
	if src.Group == "" {
		d.fault(at("source.kafka"), "source.kafka.group: missing; want the name of a consumer group, which keeps the offsets and shares the partitions among processes")
	}
	if src.Uncommitted {
		d.fault(at("source.kafka.uncommitted"), "source.kafka.uncommitted: a consumer group reads committed records only; leave it out")
	}
	if i := &s.Infer; i.Barrier == BarrierSnapshot || i.Order == OrderUnordered && i.Barrier == BarrierDefault {
		d.fault(at("infer.barrier"), "infer.barrier: want barrier: drain; from Kafka to Kafka, another process could not take over records in flight")
	}
	if s.Infer.DrainLimit > 0 {
		d.fault(at("infer.drain_limit"), "infer.drain_limit: want no drain_limit; from Kafka to Kafka, another process could not take over records in flight")
	}
	if s.Checkpoint.Dir != "" {
		d.fault(at("checkpoint.dir"), "checkpoint.dir: want no dir; from Kafka to Kafka, the consumer group keeps the offsets")
	}
	if s.DeadLetter != nil && letters == nil {
		d.fault(at("dead_letter"), "dead_letter: want dead_letter.kafka, since the sink is Kafka too: one transaction publishes results and dead letters")
	}
}

// KafkaToKafka reports whether both the source and the sink are Kafka.
func (s *Spec) KafkaToKafka() bool { return s.Source.Kafka != nil && s.Sink.Kafka != nil }
