package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/internal/cli"
)

// failing is a job with a faulty model and a policy for its failures.
func failing(infer, faults, extra string) string {
	return `
name: failing
parallelism: 2
source: {file: {path: in.jsonl, split_size: 2KiB}}
infer:
  model: double
  capacity: 16
  inputs: {x: {field: n}}
  outputs: {y: {field: twice}}
` + infer + `
sink: {file: {path: out}}
sidecar: {models: {double: 'mock:double?input=x:INT64[1]` + faults + `'}}
` + extra
}

const lettersSection = "dead_letter: {file: {path: failed}}\n"

// line is a dead letter.
type line struct {
	Record, Text, Base64 json.RawMessage
	Class, Error         string
	Attempts, Split      int
	File                 string
	Position             int64
	At                   time.Time
}

// letters reads the dead letters and checks their form. They come without the time, which differs
// between runs.
func (s *shell) letters(input string) (lines []line) {
	s.Helper()
	for text := range strings.Lines(s.cat("failed")) {
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		var l line
		if err := d.Decode(&l); err != nil {
			s.Fatalf("the dead letter %s: %v", text, err)
		}
		if l.At.IsZero() || l.Error == "" || l.Class == "" || strings.Contains(l.Error, "attempt(s)") {
			s.Errorf("the dead letter lacks something, or says it twice: %s", text)
		}
		if filepath.Base(l.File) != "in.jsonl" {
			s.Errorf("the dead letter does not say which file its record is of: %s", text)
		}
		l.At, l.File = time.Time{}, ""
		if l.Record != nil && !strings.HasPrefix(input[l.Position:], string(l.Record)+"\n") {
			s.Errorf("the dead letter %s\nis not byte for byte what is at its position of the input", text)
		}
		lines = append(lines, l)
	}
	return lines
}

// balance reads the counters of the newest checkpoint of a finished run.
func (s *shell) balance(dir string, read, completed, dropped, lettered, emitted int) {
	s.Helper()
	out := s.run(exitOK, "checkpoint", "inspect", dir).out
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z-]+) +([0-9]+)$`).FindAllStringSubmatch(out, -1) {
		got[m[1]] = m[2]
	}
	want := fmt.Sprint(map[string]int{"read": read, "completed": completed, "dropped": dropped, "dead-lettered": lettered, "emitted": emitted})
	if fmt.Sprint(got) != want || read != completed+dropped+lettered {
		s.Errorf("the counters are %v, want %s, in\n%s", got, want, out)
	}
}

// without removes the lines of some numbers.
func without(lines string, numbers ...int) string {
	var kept strings.Builder
	for l := range strings.Lines(lines) {
		if !slices.ContainsFunc(numbers, func(n int) bool {
			return strings.HasPrefix(l, fmt.Sprintf("{\"n\": %d", n)) && !isDigit(l[len(fmt.Sprintf("{\"n\": %d", n))])
		}) {
			kept.WriteString(l)
		}
	}
	return kept.String()
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// A server may name the bad rows of a request, or fail the whole of it.
const badRows = "&fault=bad@row=13&fault=bad@row=14&fault=INVALID_ARGUMENT@row=700"

func TestDeadLetters(t *testing.T) {
	s := newShell(t)
	in, want := numbers(1000)
	in += "{\"n\" : \"two\", \"why\":1.50}\n{\"n\": 1,\n\xff<\n"
	s.write("in.jsonl", in)
	want = without(want, 13, 14, 700)
	for _, order := range []string{"ordered", "unordered"} {
		s.write("job.yaml", failing("  order: "+order+"\n  on_error: {record: dead_letter}", badRows, lettersSection+"checkpoint: {interval: 10ms}\n"))
		// The second run replaces the letters of the first as it does its results.
		for range 2 {
			s.contains("stdout", s.run(exitOK, "run", "job.yaml").out, "1,003 records read, 997 results in ",
				"6 records failed and are in "+filepath.Join(s.dir, "failed"))
			got := s.output()
			if order == "unordered" {
				got = sorted(got)
				want = sorted(want)
			}
			if got != want {
				t.Errorf("%s: the results are\n%s\nwant\n%s", order, got, want)
			}
			s.leftovers()
			s.balance("out/.checkpoints", 1003, 997, 0, 6, 997)
			var letters []string
			for _, l := range s.letters(in) {
				letters = append(letters, fmt.Sprintf("%s%s%s %s %d", l.Record, l.Text, l.Base64, l.Class, l.Attempts))
			}
			slices.Sort(letters)
			wants := []string{
				`"/zw=" record 1`, `"{\"n\": 1," record 1`,
				`{"n" : "two", "why":1.50} record 1`,
				`{"n": 13} record 1`, `{"n": 14} record 1`, `{"n": 700} record 1`,
			}
			if !slices.Equal(letters, wants) {
				t.Errorf("%s: the dead letters are\n%s\nwant\n%s", order, strings.Join(letters, "\n"), strings.Join(wants, "\n"))
			}
		}
	}
}

func sorted(lines string) string {
	all := slices.Sorted(strings.Lines(lines))
	return strings.Join(all, "")
}

func TestDropAndFallback(t *testing.T) {
	in, _ := numbers(100)
	const bad = "{\"n\":\n"
	cases := []struct {
		name, infer, faults string
		more                string // behind the 100 numbers
		answer              func(n int) string
		dropped             int
	}{
		{"drop", "  on_error: {record: drop}", "&fault=bad@row=13", bad,
			func(n int) string {
				if n == 13 {
					return ""
				}
				return fmt.Sprintf("{\"n\": %d,\"twice\":%d}\n", n, 2*n)
			}, 2},
		{"fallback", "  max_batch: 1\n  retry: {max: 0}\n  on_error: {record: drop, backend: {fallback: {twice: -1.0, why: [odd, {}]}}}", "&fault=INTERNAL@row=13", bad,
			func(n int) string {
				if n == 13 {
					return "{\"n\": 13,\"twice\":-1.0,\"why\":[\"odd\",{}]}\n"
				}
				return fmt.Sprintf("{\"n\": %d,\"twice\":%d}\n", n, 2*n)
			}, 1},
		// Without the bad line: it may wait behind requests without an answer, and so reach
		// its timeout before it is decoded.
		{"fallback of a timeout", "  timeout: 20ms\n  overwrite: true\n  on_error: {record: drop, timeout: {fallback: {n: null}}}", "&fault=hang@all", "",
			func(int) string { return "{\"n\": null}\n" }, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newShell(t)
			s.write("in.jsonl", in+c.more)
			s.write("job.yaml", failing(c.infer, c.faults, ""))
			out := s.run(exitOK, "run", "job.yaml").out
			var want strings.Builder
			for n := range 100 {
				want.WriteString(c.answer(n))
			}
			if got := s.output(); got != want.String() {
				t.Errorf("the results are\n%s\nwant\n%s", got, want.String())
			}
			if c.dropped > 0 {
				s.contains("stdout", out, fmt.Sprintf("  %d records failed and were dropped", c.dropped))
			}
			n := 100 + len(c.more)/len(bad)
			s.balance("out/.checkpoints", n, n-c.dropped, c.dropped, 0, n-c.dropped)
		})
	}
}

// TestFallbackThatDoesNotFit: if the record already has the field, the fallback fails too.
func TestFallbackThatDoesNotFit(t *testing.T) {
	s := newShell(t)
	s.write("in.jsonl", "{\"n\": 1, \"twice\": 0}\n")
	s.write("job.yaml", failing("  on_error: {record: {fallback: {twice: -1}}}", "", ""))
	s.contains("stderr", s.run(exitFailed, "run", "job.yaml").errors, "split 0, position 0", `the fallback: the record already has a field "twice"`)
}

// A number that JSON cannot express is not the record's fault. It becomes null or a text, or a
// failure of the model, whose class is not record.
func TestNumbersThatAreNone(t *testing.T) {
	job := func(nan, onError string) string {
		return `
name: odd
source: {file: {path: in.jsonl}}
infer: {model: double, inputs: {x: {field: n}}, outputs: {y: {` + nan + `}}, retry: {max: 0}, ` + onError + `}
sink: {file: {path: out}}
dead_letter: {file: {path: failed}}
sidecar: {models: {double: 'mock:double?input=x:FP32[1]'}}
restart: {strategy: none}
`
	}
	input := "{\"n\":1}\n{\"n\":3e38}\n{\"n\":-3e38}\n"
	for _, tt := range []struct{ nan, onError, out, counted string }{
		{"field: y", "on_error: {record: dead_letter}", "{\"n\":1,\"y\":2}\n{\"n\":3e38,\"y\":null}\n{\"n\":-3e38,\"y\":null}\n", "  2 numbers in the model's answers were NaN or infinite\n"},
		{"nan: string", "on_error: {record: dead_letter}", "{\"n\":1,\"y\":2}\n{\"n\":3e38,\"y\":\"Infinity\"}\n{\"n\":-3e38,\"y\":\"-Infinity\"}\n", "  2 numbers in"},
		{"nan: fail", "on_error: {record: drop, backend: dead_letter}", "{\"n\":1,\"y\":2}\n", "  2 records failed and are in"},
	} {
		s := newShell(t)
		s.write("in.jsonl", input)
		s.write("job.yaml", job(tt.nan, tt.onError))
		r := s.run(exitOK, "run", "job.yaml")
		if got := s.output(); got != tt.out {
			t.Errorf("%s: %s; want %s", tt.nan, got, tt.out)
		}
		s.contains(tt.nan, r.out, tt.counted)
		if tt.nan != "nan: fail" {
			continue
		}
		for _, l := range s.letters(input) {
			if l.Class != "backend" || !strings.Contains(l.Error, "Inf, which is not a number in JSON") {
				t.Errorf("a dead letter of class %s: %s", l.Class, l.Error)
			}
		}
		s.write("job.yaml", strings.Replace(job(tt.nan, "on_error: {record: drop}"), lettersSection, "", 1))
		r = s.run(exitFailed, "run", "job.yaml", "--fresh")
		s.contains("the job", r.errors, "backend", "element 0 is +Inf, which is not a number in JSON", "nan can put")
	}
}

// TestKeyedRun: records of one key leave in the order of the input, in however many splits and
// subtasks.
func TestKeyedRun(t *testing.T) {
	s := newShell(t)
	var in strings.Builder
	byKey := map[string][]string{}
	for n := range 2000 {
		user, key := "", ""
		switch {
		case n%5 == 0: // no key: they have the empty one together
		case n%5 == 1:
			user, key = `, "user": {"id": 7}`, "7"
		case n%5 == 2:
			user, key = `, "user": {"id": "\u0037"}`, "7"
		default:
			user, key = fmt.Sprintf(`, "user": {"id": "u%d"}`, n%23), fmt.Sprint("u", n%23)
		}
		fmt.Fprintf(&in, "{\"n\": %d%s}\n", n, user)
		if n%100 != 13 {
			byKey[key] = append(byKey[key], fmt.Sprintf("{\"n\": %d%s,\"twice\":%d}", n, user, 2*n))
		}
	}
	s.write("in.jsonl", in.String())
	faults := "&latency=1ms&jitter=3ms&seed=5"
	for n := 13; n < 2000; n += 100 {
		faults += fmt.Sprintf("&fault=bad@row=%d", n)
	}
	s.write("job.yaml", strings.Replace(failing("  order: keyed\n  key: {field: user.id}\n  max_batch: 4\n  on_error: {record: dead_letter}", faults,
		lettersSection+"checkpoint: {interval: 20ms}\n"), "parallelism: 2", "parallelism: 3", 1))
	s.run(exitOK, "run", "job.yaml")
	got := map[string][]string{}
	for l := range strings.Lines(s.output()) {
		var r struct{ User struct{ ID any } }
		if err := json.Unmarshal([]byte(l), &r); err != nil {
			t.Fatal(err)
		}
		key := ""
		if r.User.ID != nil {
			key = fmt.Sprint(r.User.ID)
		}
		got[key] = append(got[key], strings.TrimSuffix(l, "\n"))
	}
	for key, want := range byKey {
		if !slices.Equal(got[key], want) {
			t.Errorf("the results of key %q are\n%s\nwant\n%s", key, strings.Join(got[key], "\n"), strings.Join(want, "\n"))
		}
	}
	if len(got) != len(byKey) {
		t.Errorf("there are results of %d keys, want %d", len(got), len(byKey))
	}
	if n := len(s.letters(in.String())); n != 20 {
		t.Errorf("%d dead letters, want 20", n)
	}
	s.balance("out/.checkpoints", 2000, 1980, 0, 20, 1980)
}

// TestStopAndResumeWithDeadLetters: both outputs continue where they were, also after a return to
// an older checkpoint.
func TestStopAndResumeWithDeadLetters(t *testing.T) {
	s := newShell(t)
	in, want := numbers(many)
	s.write("in.jsonl", in)
	var bad []int
	faults := ""
	for n := 5; n < many; n += 97 {
		bad = append(bad, n)
		faults += fmt.Sprintf("&fault=bad@row=%d", n)
	}
	want = without(want, bad...)
	job := func(latency string) string {
		return failing("  on_error: {record: dead_letter}", latency+faults, lettersSection+"checkpoint: {interval: 10ms, retain: 100}\n")
	}
	const slow, quick = "&latency=0s+3ms", ""
	stop := []step{{"checkpoint completed\" checkpoint=6", syscall.SIGTERM, nil}}
	s.write("job.yaml", job(slow))
	s.runUntil(143, stop, "run", "job.yaml", "--log-level=debug")
	half := len(s.letters(in))
	if got := s.output(); !isPart(want, got) || got == "" || got == want || half == 0 || half == len(bad) {
		t.Fatalf("after the stop there are %d bytes of results and %d dead letters, want a part of %d and %d", len(got), half, len(want), len(bad))
	}
	s.leftovers()
	s.write("other.yaml", strings.Replace(job(quick), "path: failed", "path: lost", 1))
	s.contains("stderr", s.run(exitUsage, "run", "--resume", "other.yaml").errors, "cannot be resumed", "dead letters was ")

	s.runUntil(143, []step{{"checkpoint completed", syscall.SIGTERM, nil}}, "run", "job.yaml", "--from", "1", "--log-level=debug")
	s.leftovers()
	s.write("job.yaml", strings.Replace(job(quick), "parallelism: 2", "parallelism: 3", 1))
	s.run(exitOK, "run", "job.yaml", "--resume")
	if s.output() != want {
		t.Error("the results are not those of an undisturbed run")
	}
	var got []int
	for _, l := range s.letters(in) {
		var r struct{ N int }
		if err := json.Unmarshal(l.Record, &r); err != nil {
			t.Fatal(err)
		}
		got = append(got, r.N)
	}
	if !slices.Equal(got, bad) {
		t.Errorf("the dead letters are of %v, want %v", got, bad)
	}
	s.leftovers()
	s.balance("out/.checkpoints", many, many-len(bad), 0, len(bad), many-len(bad))
}

// TestActionsAndResuming: a job that failed may be resumed with an action for that failure. The
// other actions may not change.
func TestActionsAndResuming(t *testing.T) {
	s := newShell(t)
	in, want := numbers(many)
	in += "{\"n\": two}\n"
	s.write("in.jsonl", in)
	// A slow process is stopped midway. A quick one takes no checkpoint before its end.
	faults, interval := "&latency=0s+3ms", "10ms"
	job := func(infer, extra string) {
		s.write("job.yaml", failing(infer, faults, "checkpoint: {interval: "+interval+"}\n"+extra))
	}
	stop := []step{{"checkpoint completed", syscall.SIGTERM, nil}}
	job("", "")
	s.runUntil(143, stop, "run", "job.yaml", "--log-level=debug")
	faults, interval = "", "1h"
	job("", "")
	s.contains("stderr", s.run(exitFailed, "run", "--resume", "job.yaml").errors, "the line cannot be decoded: it is not JSON")
	for _, c := range []struct{ infer, extra, want string }{
		{"  on_error: {record: dead_letter}", lettersSection, `dead letters was not set and is now "` + filepath.Join(s.dir, "failed")},
		{"  order: keyed\n  key: {field: n}", "", `order was "ordered" and is now "keyed"; key was not set and is now "n"`},
	} {
		job(c.infer, c.extra)
		s.contains("stderr", s.run(exitUsage, "run", "--resume", "job.yaml").errors, "cannot be resumed", c.want)
	}
	faults, interval = "&latency=0s+3ms", "10ms"
	job("  on_error: {record: drop, timeout: fail}", "")
	s.runUntil(143, stop, "run", "--resume", "job.yaml", "--log-level=debug")
	faults, interval = "", "1h"
	job("  on_error: {record: {fallback: {twice: 0}}}", "")
	s.contains("stderr", s.run(exitUsage, "run", "--resume", "job.yaml").errors, `on_error record was "drop" and is now "fallback \"twice\": 0"`)
	job("", "")
	s.contains("stderr", s.run(exitUsage, "run", "--resume", "job.yaml").errors, `on_error record was "drop" and is now not set`)
	job("  on_error: {record: drop, backend: drop}", "")
	s.run(exitOK, "run", "--resume", "job.yaml")
	if s.output() != want {
		t.Error("the results are not those of a run that dropped the record at once")
	}
}

// TestDeadLettersOfAPipe: results go to standard output, and the state is beside the dead letters,
// so that the next run knows that an earlier run left them.
func TestDeadLettersOfAPipe(t *testing.T) {
	s := newShell(t)
	s.write("in.jsonl", "{\"n\": 1}\nnothing\n{\"n\": 2}\n")
	s.write("job.yaml", strings.Replace(failing("  on_error: {record: dead_letter}", "", lettersSection), "sink: {file: {path: out}}", "sink: {stdout: }", 1))
	for range 2 {
		var out, errs bytes.Buffer
		code := program.Run(&cli.World{Stdout: &out, Stderr: &errs}, []string{"run", "job.yaml"})
		s.check(exitOK, result{code, out.String(), errs.String()}, nil)
		if want := "{\"n\": 1,\"twice\":2}\n{\"n\": 2,\"twice\":4}\n"; out.String() != want {
			t.Errorf("stdout is %q, want %q", out.String(), want)
		}
		if letters := s.letters(""); len(letters) != 1 || string(letters[0].Text) != `"nothing"` || letters[0].Position != 9 {
			t.Errorf("the dead letters are %+v", letters)
		}
	}
	s.balance("failed/.checkpoints", 3, 2, 0, 1, 2)
}

func TestDeadLettersInTheSinkByAnotherName(t *testing.T) {
	s := newShell(t)
	if err := os.Mkdir("out", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("out", "failed"); err != nil {
		t.Fatal(err)
	}
	s.write("in.jsonl", "{\"n\": 1}\n")
	s.write("job.yaml", failing("  on_error: {record: dead_letter}", "", lettersSection))
	s.contains("stderr", s.run(exitUsage, "validate", "job.yaml").errors, "job.yaml:13:22: dead_letter.file.path: want another folder than the sink's")
}
