package kafka

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/tensorferry/tensorferry/internal/guard"
)

// Config says how to reach Kafka. Brokers must be set.
type Config struct {
	// Brokers are the addresses that the client tries first, as host:port. At least one.
	Brokers []string
	// ClientID names the program in the brokers' logs and quotas. Default: "tensorferry".
	ClientID string
	// TLS is the configuration of TLS for every connection. Default: connections are plain.
	TLS *tls.Config
	// SASL authenticates the program. It is a mechanism of franz-go's sasl packages. Default:
	// the program does not authenticate itself.
	SASL sasl.Mechanism
	// Timeout limits each question to the brokers that is not a read or a write. Default 30 s.
	Timeout time.Duration
	// Options are further options of franz-go. They come last, so they can break what this
	// package promises.
	Options []kgo.Opt
	// Logger receives the messages of franz-go from level warn on, and those of this package.
	// Default: nothing is logged.
	Logger *slog.Logger

	dialing *dialing
}

// DefaultTimeout is the limit of a question to the brokers.
const DefaultTimeout = 30 * time.Second

func (c Config) resolve() (Config, error) {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("kafka: no brokers; name at least one, as host:port"))
	}
	for _, b := range c.Brokers {
		if strings.TrimSpace(b) == "" {
			errs = append(errs, errors.New("kafka: a broker has no name; want host:port"))
		}
	}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("kafka: the timeout is %v; want more than 0, or 0 for %v", c.Timeout, DefaultTimeout))
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.ClientID == "" {
		c.ClientID = "tensorferry"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = guard.Logger(c.Logger)
	c.dialing = &dialing{} // all clients that are made with c share it
	return c, errors.Join(errs...)
}

// client makes a client with further options.
func (c *Config) client(opts ...kgo.Opt) (*kgo.Client, error) {
	if c.dialing == nil {
		c.dialing = &dialing{}
	}
	all := []kgo.Opt{kgo.SeedBrokers(c.Brokers...), kgo.ClientID(c.ClientID), kgo.WithLogger(&logger{log: c.Logger}), kgo.WithHooks(c.dialing)}
	if c.TLS != nil {
		all = append(all, kgo.DialTLSConfig(guard.TLS(c.TLS, c.brokeTLS)))
	}
	if c.SASL != nil {
		m, err := guardedMechanism(c.SASL)
		if err != nil {
			return nil, fmt.Errorf("kafka: %w", err)
		}
		all = append(all, kgo.SASL(m))
	}
	var cl *kgo.Client
	err := guard.Apart("franz-go, with the Options,", func() (err error) {
		cl, err = kgo.NewClient(append(append(all, opts...), c.Options...)...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return cl, nil
}

// brokeTLS logs the failure of a function of the TLS configuration. The handshake fails with it.
func (c *Config) brokeTLS(err error) {
	if log := guard.Logger(c.Logger); log != nil {
		log.Error("kafka: a function of the TLS configuration failed", "error", err)
	}
}
