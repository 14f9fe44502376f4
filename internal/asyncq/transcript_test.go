package asyncq

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the expected lines of the transcripts")

// TestTranscripts plays every file of testdata. A line is an event. The lines after it that begin
// with "> " are its expected effects. "#" begins a comment.
//
//	new ordered|unordered|keyed capacity=2 calls=2 timeout=10 hold=60 retries=2 delay=3
//	                           multiplier=1 maxdelay=0 (all of it on one line)
//	at 5                       the time of the events that follow
//	admit a b / mark w         records and watermarks come in, by name; "a:k" has the
//	                           key k, "a+5" has 5 bytes
//	start / tick               calls are made / timers fire
//	ok a / fault a / transient a / unavailable a / overloaded a [after=4]
//	                           the newest call of a ends; "a#1" is the answer to call 1
//	finish a / fail            the driver's answer to decide, expired, timeout, ...
//	                           (ok finishes by itself)
//	pop 9                      entries leave
//	suspend / resume / drain / undrain / end
//	stats / entries / next / limit  print
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var p player
			var got []string
			for n, line := range strings.Split(strings.TrimRight(string(b), "\n"), "\n") {
				if strings.HasPrefix(line, ">") {
					continue
				}
				got = append(got, line)
				if event, _, _ := strings.Cut(line, "#!"); strings.TrimSpace(event) != "" && !strings.HasPrefix(event, "#") {
					out, err := p.play(strings.Fields(event))
					if err != nil {
						t.Fatalf("%s:%d: %v", f, n+1, err)
					}
					for _, o := range out {
						got = append(got, "> "+o)
					}
				}
			}
			text := strings.Join(got, "\n") + "\n"
			if *update {
				if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if text != string(b) {
				t.Errorf("%s does not match; got\n%s", f, text)
			}
		})
	}
}

type player struct {
	q     *Queue
	now   Time
	ids   map[string]ID
	names map[ID]string
}

func (p *player) play(w []string) ([]string, error) {
	if w[0] == "new" {
		return nil, p.reset(w[1:])
	}
	var out []string
	say := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	arg := func(i int) string {
		if i < len(w) {
			return w[i]
		}
		return ""
	}
	q := p.q
	switch w[0] {
	case "at":
		p.now, _ = strconv.ParseInt(arg(1), 10, 64)
	case "admit", "mark":
		for _, name := range w[1:] {
			name, size, _ := strings.Cut(name, "+")
			bytes, _ := strconv.ParseInt(size, 10, 64)
			name, key, _ := strings.Cut(name, ":")
			hash := uint64(0)
			for _, c := range key {
				hash = hash*31 + uint64(c)
			}
			switch {
			case q.Room() < 1 || !q.Fits(bytes):
				say("%s: no room", name)
			case w[0] == "admit":
				p.name(name, q.Admit(p.now, bytes, hash))
			default:
				p.name(name, q.AdmitMark(p.now))
			}
		}
	case "start":
		q.Start(p.now)
	case "tick":
		q.Tick(p.now)
	case "suspend":
		q.Suspend(p.now)
	case "resume":
		q.Resume(p.now)
	case "drain":
		q.Drain()
	case "undrain":
		q.Undrain()
	case "end":
		q.End()
	case "finish":
		q.Finish(p.ids[arg(1)], 0)
	case "fail":
		q.Fail()
	case "pop":
		n, _ := strconv.Atoi(arg(1))
		q.Pop(n)
	case "stats":
		s := q.Stats()
		say("live %d calling %d held %d retrying %d done %d room %d empty %v", s.Live, s.Calling, s.Held, s.Retrying, s.Done, q.Room(), q.Empty())
	case "entries":
		var names []string
		for _, s := range q.Entries(nil) {
			names = append(names, p.names[ID{s, q.entries[s].gen}])
		}
		say("%s", strings.Join(names, " "))
	case "limit":
		say("%d", q.Stats().Limit)
	case "next":
		if at, ok := q.Next(); ok {
			say("%d", at)
		} else {
			say("nothing")
		}
	case "ok", "fault", "transient", "unavailable", "overloaded":
		p.complete(w, say)
	default:
		return nil, fmt.Errorf("unknown event %q", w[0])
	}
	for _, e := range q.Effects {
		name := p.names[e.ID]
		switch e.Kind {
		case Call:
			if e.Deadline == never {
				say("call %s#%d", name, e.Attempt)
			} else {
				say("call %s#%d until %d", name, e.Attempt, e.Deadline)
			}
		case Cancel:
			say("cancel %s#%d", name, e.Attempt)
		case Timeout:
			say("timeout %s after %d attempts", name, q.Attempts(e.ID))
		case HoldOver:
			say("hold over %s", name)
		case Emit:
			say("emit %s", name)
		case EmitMark:
			say("mark %s", name)
		}
	}
	q.Effects = q.Effects[:0]
	return out, nil
}

func (p *player) name(name string, id ID) { p.ids[name], p.names[id] = id, name }

func (p *player) complete(w []string, say func(string, ...any)) {
	outcome := map[string]Outcome{"ok": Final, "fault": Fault, "transient": Transient, "unavailable": Unavailable, "overloaded": Overloaded}[w[0]]
	after := Time(0)
	for _, name := range w[1:] {
		if v, ok := strings.CutPrefix(name, "after="); ok {
			after, _ = strconv.ParseInt(v, 10, 64)
		}
	}
	for _, name := range w[1:] {
		if strings.Contains(name, "=") {
			continue
		}
		name, size, _ := strings.Cut(name, "+") // of its results
		bytes, _ := strconv.ParseInt(size, 10, 64)
		name, number, given := strings.Cut(name, "#")
		id, ok := p.ids[name]
		if !ok {
			id = ID{Slot: 1 << 20, Gen: 7} // an id that never existed
		}
		attempt := uint32(0)
		if s := p.q.lookup(id); given {
			n, _ := strconv.Atoi(number)
			attempt = uint32(n)
		} else if s != none {
			attempt = p.q.entries[s].attempt
		}
		verdict := p.q.Complete(p.now, id, attempt, outcome, after)
		switch {
		case outcome == Final && verdict == Decide:
			p.q.Finish(id, bytes)
		default:
			say("%s %s", name, [...]string{"ignored", "waits", "decide", "expired", "held out"}[verdict])
		}
	}
}

func (p *player) reset(options []string) error {
	cfg := Config{Capacity: 100, Timeout: 1000, Hold: 1000, Multiplier: 1, RetryDelay: 10, HoldDelay: 5, MaxHoldDelay: 20}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		n, _ := strconv.ParseInt(v, 10, 64)
		switch k {
		case "ordered":
		case "unordered":
			cfg.Order = Unordered
		case "keyed":
			cfg.Order = Keyed
		case "bytes":
			cfg.MaxBytes = n
		case "budget":
			cfg.Budget, cfg.Refill = float64(n), 0.5
		case "capacity":
			cfg.Capacity = int(n)
		case "calls":
			cfg.MaxCalls = int(n)
		case "timeout":
			cfg.Timeout = n
		case "hold":
			cfg.Hold = n
		case "retries":
			cfg.Retries = int(n)
		case "delay":
			cfg.RetryDelay = n
		case "multiplier":
			cfg.Multiplier = float64(n)
		case "maxdelay":
			cfg.MaxDelay = n
		default:
			return fmt.Errorf("unknown option %q", o)
		}
	}
	if cfg.MaxCalls == 0 {
		cfg.MaxCalls = cfg.Capacity
	}
	*p = player{q: New(cfg), ids: map[string]ID{}, names: map[ID]string{}}
	return nil
}

func TestRetryDelaysGrowToTheirBound(t *testing.T) {
	q := New(Config{Capacity: 1, MaxCalls: 1, RetryDelay: 100, Multiplier: 2, MaxDelay: 500})
	var got []Time
	for n := range 6 {
		got = append(got, q.retryDelay(&entry{tries: int32(n)}))
	}
	if !slices.Equal(got, []Time{100, 200, 400, 500, 500, 500}) {
		t.Fatal(got)
	}
}
