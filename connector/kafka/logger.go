package kafka

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/internal/brief"
)

// logger passes on franz-go's messages. While brokers are away, a client repeats a message many
// times a second. logger passes on each message at most once in quiet.
type logger struct {
	log *slog.Logger

	mu   sync.Mutex
	said map[string]*saying
}

const quiet = 10 * time.Second

type saying struct {
	at   time.Time
	more int // messages since then that were not passed on
}

func (l *logger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l *logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	l.mu.Lock()
	s := l.said[msg]
	if s == nil {
		if l.said == nil {
			l.said = map[string]*saying{}
		}
		s = &saying{}
		l.said[msg] = s
	}
	now := time.Now()
	if !s.at.IsZero() && now.Sub(s.at) < quiet {
		s.more++
		l.mu.Unlock()
		return
	}
	more := s.more
	s.at, s.more = now, 0
	l.mu.Unlock()
	if more > 0 {
		keyvals = append(keyvals, "more_like_this_before", more)
	}
	for i, v := range keyvals {
		if err, ok := v.(error); ok {
			keyvals[i] = brief.Error(err)
		}
	}
	to := slog.LevelWarn
	if level == kgo.LogLevelError {
		to = slog.LevelError
	}
	l.log.Log(context.Background(), to, "kafka: "+msg, keyvals...)
}
