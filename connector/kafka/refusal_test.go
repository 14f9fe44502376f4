package kafka

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestExplained: brokers are out of reach if no connection is open, and slow if one is, whatever
// the last attempt to connect returned.
func TestExplained(t *testing.T) {
	one, other := net.Pipe()
	defer one.Close()
	defer other.Close()
	down := errors.New("connection refused")
	connect := func(d *dialing, conn net.Conn, err error) { d.OnBrokerConnect(kgo.BrokerMetadata{}, 0, conn, err) }
	for _, c := range []struct {
		name string
		did  func(*dialing)
		err  error
		says string
	}{
		{"nothing was tried", func(*dialing) {}, context.DeadlineExceeded, "kafka: asking: context deadline exceeded"},
		{"nobody is there", func(d *dialing) { connect(d, nil, down) }, context.DeadlineExceeded, "no broker could be reached at b1, b2 for 3s: connection refused"},
		{"nobody is there any more", func(d *dialing) {
			connect(d, one, nil)
			d.OnBrokerDisconnect(kgo.BrokerMetadata{}, one)
			connect(d, nil, down)
		}, context.DeadlineExceeded, "no broker could be reached at b1, b2 for 3s: connection refused"},
		{"one is slow", func(d *dialing) { connect(d, one, nil) }, context.DeadlineExceeded, "a broker of b1, b2 is connected but has not answered for 3s"},
		{"one is slow and another is down", func(d *dialing) {
			connect(d, one, nil)
			connect(d, nil, down)
		}, context.DeadlineExceeded, "a broker of b1, b2 is connected but has not answered for 3s"},
		{"one answers badly and another is down", func(d *dialing) {
			connect(d, one, nil)
			connect(d, nil, down)
		}, errors.New("boom"), "kafka: asking: boom"},
	} {
		cfg := Config{Brokers: []string{"b1", "b2"}, Timeout: 3 * time.Second, dialing: &dialing{}}
		c.did(cfg.dialing)
		if err := cfg.explained("asking", c.err); !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %q", c.name, err, c.says)
		}
	}
}
