package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A long refusal of a broker is shortened, and is still recognized.
func TestBrokersLongWords(t *testing.T) {
	long := fmt.Errorf("%s: %w", strings.Repeat("x", 1<<20), kerr.SaslAuthenticationFailed)
	cfg := Config{Brokers: []string{"b:9092"}, dialing: &dialing{}}
	cfg.dialing.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, long)
	for name, err := range map[string]error{
		"refused": refused(long), "asked": cfg.asked("asking", long),
		"dialled": errors.Unwrap(cfg.asked("asking", context.DeadlineExceeded)),
	} {
		if len(err.Error()) > 5<<10 || !isRefusal(err) || !errors.Is(err, kerr.SaslAuthenticationFailed) || !strings.Contains(err.Error(), "it has 10") {
			t.Errorf("%s: %d bytes: %.100s", name, len(err.Error()), err)
		}
	}
}
