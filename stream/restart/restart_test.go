package restart

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func mustNew(t *testing.T, c Config, checkpointing bool) Strategy {
	t.Helper()
	s, err := New(c, checkpointing)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// history runs failures at the given offsets from start and writes the decisions
// down: the delay of each restart, or "end".
func history(s Strategy, u float64, at ...time.Duration) string {
	var st State
	var said []string
	for _, a := range at {
		var d Decision
		st, d = s.Next(st, start.Add(a), u)
		if !d.Restart {
			said = append(said, "end")
			break
		}
		said = append(said, d.Delay.String())
	}
	return strings.Join(said, " ")
}

func every(step time.Duration, n int) (at []time.Duration) {
	for i := range n {
		at = append(at, time.Duration(i)*step)
	}
	return at
}

func TestStrategies(t *testing.T) {
	const year = 365 * 24 * time.Hour
	exact := Config{Strategy: ExponentialDelay, Jitter: Off}
	with := func(c Config, f func(*Config)) Config { f(&c); return c }
	for _, tt := range []struct {
		name string
		c    Config
		at   []time.Duration
		want string
	}{
		{"none", Config{Strategy: None}, []time.Duration{0}, "end"},
		{"fixed-delay, defaults", Config{Strategy: FixedDelay}, []time.Duration{0, year}, "1s end"},
		{"fixed-delay never resets", Config{Strategy: FixedDelay, Attempts: 3, Delay: 5 * time.Second},
			every(year, 4), "5s 5s 5s end"},
		{"fixed-delay, no attempts, no delay", Config{Strategy: FixedDelay, Attempts: Off, Delay: Off}, every(0, 1), "end"},
		{"fixed-delay at once", Config{Strategy: FixedDelay, Delay: Off}, every(0, 2), "0s end"},
		{"failure-rate, defaults, just apart enough", Config{Strategy: FailureRate}, every(time.Minute+1, 5), "1s 1s 1s 1s 1s"},
		{"failure-rate, defaults, an interval apart", Config{Strategy: FailureRate}, every(time.Minute, 2), "1s end"},
		{"failure-rate slides", Config{Strategy: FailureRate, MaxFailures: 2, Interval: 10 * time.Second, Delay: time.Millisecond},
			[]time.Duration{0, 9 * time.Second, 11 * time.Second, 19*time.Second + 1, 21 * time.Second}, "1ms 1ms 1ms 1ms end"},
		{"exponential-delay, defaults", exact, every(time.Second, 14),
			"1s 1.5s 2.25s 3.375s 5.0625s 7.59375s 11.390625s 17.0859375s 25.62890625s 38.443359375s 57.665039062s 1m0s 1m0s 1m0s"},
		{"exponential-delay does not reset at the threshold", exact, []time.Duration{0, time.Hour + time.Second}, "1s 1.5s"},
		{"exponential-delay resets beyond it", exact, []time.Duration{0, time.Hour + time.Second + 1}, "1s 1s"},
		{"exponential-delay: the threshold is behind the grown delay", exact,
			[]time.Duration{0, 1, 1 + time.Hour + 1500*time.Millisecond, 2 + 2*time.Hour + 3750*time.Millisecond}, "1s 1.5s 2.25s 1s"},
		{"exponential-delay, attempts in a row", with(exact, func(c *Config) { c.Attempts = 2 }), every(time.Minute, 3), "1s 1.5s end"},
		{"exponential-delay, attempts start anew", with(exact, func(c *Config) { c.Attempts = 2 }),
			[]time.Duration{0, 1, 2 * time.Hour, 2*time.Hour + 1, 2*time.Hour + 2}, "1s 1.5s 1s 1.5s end"},
		{"exponential-delay, parameters", Config{Strategy: ExponentialDelay, InitialDelay: 100 * time.Millisecond, MaxDelay: time.Second,
			Multiplier: 4, Jitter: Off, ResetAfter: time.Minute}, []time.Duration{0, 1, 2, 2 * time.Minute}, "100ms 400ms 1s 100ms"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := history(mustNew(t, tt.c, true), 0.5, tt.at...); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestTheChoiceWithoutAConfig(t *testing.T) {
	if got := mustNew(t, Config{}, false).Config().Strategy; got != None {
		t.Errorf("without checkpoints: %s", got)
	}
	want := Config{Strategy: ExponentialDelay, Attempts: math.MaxInt, InitialDelay: time.Second, MaxDelay: time.Minute,
		Multiplier: 1.5, Jitter: 0.1, ResetAfter: time.Hour}
	if got := mustNew(t, Config{}, true).Config(); got != want {
		t.Errorf("with checkpoints: %+v", got)
	}
}

func TestJitter(t *testing.T) {
	s := mustNew(t, Config{Strategy: ExponentialDelay, InitialDelay: 10 * time.Second, MaxDelay: 10500 * time.Millisecond}, true)
	for u, want := range map[float64]time.Duration{0: 9 * time.Second, 0.25: 9500 * time.Millisecond, 0.5: 10 * time.Second,
		0.75: 10500 * time.Millisecond, 0.99: 10500 * time.Millisecond} {
		if _, d := s.Next(State{}, start, u); d.Delay != want {
			t.Errorf("u = %v: %v; want %v", u, d.Delay, want)
		}
	}
}

// Next is a function: the same failures give the same delays, a State can be used
// twice, and whatever the configuration no delay leaves its range.
func TestNextIsPureAndBounded(t *testing.T) {
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 2000 {
		c := Config{Strategy: []string{FixedDelay, FailureRate, ExponentialDelay}[r.IntN(3)]}
		switch c.Strategy {
		case FixedDelay:
			c.Attempts = 1 + r.IntN(5)
		case FailureRate:
			c.MaxFailures, c.Interval = 1+r.IntN(4), time.Duration(1+r.Int64N(int64(time.Hour)))
		default:
			c.InitialDelay = time.Duration(1 + r.Int64N(math.MaxInt64>>r.IntN(40)))
			c.MaxDelay = c.InitialDelay + time.Duration(r.Int64N(math.MaxInt64-int64(c.InitialDelay)))
			c.Multiplier, c.Jitter = 1+r.Float64()*999, r.Float64()
		}
		s := mustNew(t, c, true)
		var st State
		at := start
		for range 20 {
			at = at.Add(time.Duration(r.Int64N(int64(time.Hour))))
			u := r.Float64()
			was := fmt.Sprintf("%+v", st)
			n1, d1 := s.Next(st, at, u)
			_, d2 := s.Next(st, at, u)
			if d1 != d2 || fmt.Sprintf("%+v", st) != was {
				t.Fatalf("%+v: the state was changed: %v, then %v", c, d1, d2)
			}
			if d1.Delay < 0 || c.Strategy == ExponentialDelay && d1.Delay > c.MaxDelay {
				t.Fatalf("%+v: a delay of %v", c, d1.Delay)
			}
			if c.Strategy == FailureRate && len(n1.Recent) > c.MaxFailures+1 {
				t.Fatalf("%+v remembers %d failures", c, len(n1.Recent))
			}
			st = n1
			if !d1.Restart {
				break
			}
		}
	}
}

func TestInvalidConfig(t *testing.T) {
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Strategy: "always"}, `the strategy "always" is unknown`},
		{Config{Delay: time.Second}, "no strategy is named"},
		{Config{Strategy: None, Attempts: 1}, "attempts does not belong to this strategy"},
		{Config{Strategy: FixedDelay, Attempts: -2, Delay: -3}, "attempts is -2; want 1 or more, or 0 for the default; delay is -3ns; want more than 0, or 0 for 1s"},
		{Config{Strategy: FixedDelay, MaxFailures: 1, Interval: 1}, "max failures does not belong to this strategy; interval does not"},
		{Config{Strategy: FailureRate, MaxFailures: -1}, "max failures is -1"},
		{Config{Strategy: FailureRate, Interval: -1}, "interval is -1ns"},
		{Config{Strategy: ExponentialDelay, InitialDelay: 2, MaxDelay: 1}, "max delay is 1ns; want at least the initial delay, 2ns"},
		{Config{Strategy: ExponentialDelay, Multiplier: 0.5}, "multiplier is 0.5; want 1 to 1000"},
		{Config{Strategy: ExponentialDelay, Multiplier: math.NaN()}, "multiplier is NaN"},
		{Config{Strategy: ExponentialDelay, Jitter: 1.5}, "jitter is 1.5; want 0 to 1"},
		{Config{Strategy: ExponentialDelay, Delay: 1}, "delay does not belong"},
		{Config{Strategy: ExponentialDelay, ResetAfter: -1}, "reset after is -1ns"},
		{Config{Strategy: ExponentialDelay, Attempts: -1}, "attempts is -1"},
	} {
		if _, err := New(tt.c, true); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v; want %q", tt.c, err, tt.want)
		}
	}
}
