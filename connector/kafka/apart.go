package kafka

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/tensorferry/tensorferry/connector"
)

// target is implemented by the sinks.
type target interface {
	// target returns the brokers and the topic for records for which Encode sets no topic.
	target() (c *Config, topic string)
}

func (s *Sink[T]) target() (*Config, string) { return &s.cfg.Config, s.cfg.Topic }

func (s *groupSink[T]) target() (*Config, string) { return &s.g.cfg.Config, s.cfg.Topic }

var (
	_ connector.LoopChecker = (*Source[int])(nil)
	_ connector.LoopChecker = (*groupSource[int])(nil)
)

// CheckLoop implements connector.LoopChecker. It refuses a job whose output would be its own input.
// It compares the topics of the sinks that share a broker with the source. It does not know a topic
// that an Encode chooses.
func (s *Source[T]) CheckLoop(_ context.Context, own ...any) error {
	return apart(&s.cfg.Config, s.match, own)
}

func (s *groupSource[T]) CheckLoop(_ context.Context, own ...any) error {
	return apart(&s.g.cfg.Config, s.g.match, own)
}

func apart(c *Config, match func(string) bool, own []any) error {
	for _, w := range own {
		t, ok := w.(target)
		if !ok || match == nil { // a faulty pattern is reported when topics are looked for
			continue
		}
		to, topic := t.target()
		shared := slices.ContainsFunc(to.Brokers, func(b string) bool {
			return slices.ContainsFunc(c.Brokers, func(o string) bool { return address(b) == address(o) })
		})
		if topic != "" && shared && match(topic) {
			return fmt.Errorf("kafka: the topic %s is the job's own output and would also be its input; write to another topic, or read other topics", topic)
		}
	}
	return nil
}

// address returns a broker's name in one form. A name without a port gets Kafka's default port. The
// names of this machine become one. Other names of the same broker stay different.
func address(broker string) string {
	broker = strings.ToLower(strings.TrimSpace(broker))
	host, port, err := net.SplitHostPort(broker)
	if err != nil {
		host, port = strings.Trim(broker, "[]"), "9092"
	}
	if ip := net.ParseIP(host); host == "localhost" || ip.IsLoopback() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
