package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/internal/cli"
)

// reading is the doubling job with another source.
func reading(source, extra string) string {
	return strings.Replace(doubles(extra+quickSidecar), "{file: {path: in.jsonl, split_size: 2KiB}}", source, 1)
}

func (s *shell) files(names ...string) {
	s.Helper()
	for i, name := range names {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			s.Fatal(err)
		}
		s.write(name, fmt.Sprintf("{\"n\": %d}\n", i))
	}
}

// What a pattern of the source matches, and what it does not.
func TestSourcePatterns(t *testing.T) {
	s := newShell(t)
	s.files("in/a.jsonl", "in/b/c.jsonl", "in/b/d/e.jsonl", "in/.pending-x.jsonl", "in/.old/f.jsonl", "in/._x.jsonl")
	if err := os.Symlink("a.jsonl", "in/same.jsonl"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", "in/b/up"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"in/*.jsonl":                 "0",
		"in/**/*.jsonl":              "0 1 2",
		"in/**":                      "0 1 2",
		"in/.*.jsonl":                "5 3",
		"[in/b/c.jsonl, in/*/*]":     "1",
		"[in/a.jsonl, in/*.jsonl]":   "0",
		"in/.old/*":                  "4",
		"[in/**/e.jsonl, in/./b/**]": "2 1",
	} {
		s.write("job.yaml", reading("{file: {path: "+path+"}}", ""))
		s.run(exitOK, "validate", "job.yaml")
		s.run(exitOK, "run", "job.yaml", "--fresh")
		var ns []string
		for line := range strings.Lines(s.output()) {
			n, _, _ := strings.Cut(strings.TrimPrefix(line, `{"n": `), ",")
			ns = append(ns, n)
		}
		if got := strings.Join(ns, " "); got != want {
			t.Errorf("%s reads %s; want %s", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"in/**.jsonl":        "** stands for any depth of folders only where it is alone",
		"in/a**/x":           "** stands for any depth of folders only where it is alone",
		"'in/{a,b}.jsonl'":   "alternatives in braces, as in {a,b}, are not supported; list the paths one by one",
		"'in/[!x].jsonl'":    "a class that begins with ! is not supported",
		"'in/[[:alpha:]].j'": "classes by name are not supported",
	} {
		s.write("job.yaml", reading("{file: {path: "+path+"}}", ""))
		for _, command := range []string{"validate", "run"} {
			s.contains(command, s.run(exitUsage, command, "job.yaml").errors, "job.yaml:4:", "source.file.path: file: the pattern ", want)
		}
	}
}

// A job's own output is never its input, under any name.
func TestInputIsNotTheOutput(t *testing.T) {
	s := newShell(t)
	s.files("in/a.jsonl", "in/b.jsonl")
	if err := os.Symlink("in", "link"); err != nil {
		t.Fatal(err)
	}
	const letters = "  on_error: {record: dead_letter}\n"
	for name, c := range map[string]struct {
		path, out, extra string
		apart            bool
	}{
		"the results":             {"in/*.jsonl", "in", "", false},
		"the results, deep":       {"in/**/*.jsonl", "in/new/out", "", false},
		"the results by a link":   {"link/*.jsonl", "in", "", false},
		"the results to a link":   {"in/*.jsonl", "link", "", false},
		"a result":                {"[in/a.jsonl, out/part-00000-00000.jsonl]", "out", "", false},
		"the dead letters":        {"in/*.jsonl", "out", "dead_letter: {file: {path: in}}\n", false},
		"the dead letters, deep":  {"in/**", "out", "dead_letter: {file: {path: in/failed}}\n", false},
		"the checkpoints":         {"in/**", "out", "checkpoint: {dir: in/state}\n", false},
		"checkpoints beside":      {"in/*.jsonl", "out", "checkpoint: {dir: in/state}\n", true},
		"results beside":          {"'in/[ab].jsonl'", "in", "", true},
		"results below":           {"in/*.jsonl", "in/out", "", true},
		"hidden results":          {"in/**", "in/.out", "", true},
		"everything beside":       {"in/*.jsonl", "out", "dead_letter: {file: {path: failed}}\ncheckpoint: {dir: state}\n", true},
		"all of the job's folder": {"'**/*.jsonl'", "out", "", false},
	} {
		text := strings.Replace(reading("{file: {path: "+c.path+"}}", c.extra), "{path: out}", "{path: "+c.out+"}", 1)
		if strings.Contains(c.extra, "dead_letter") {
			text = strings.Replace(text, "  model: double\n", "  model: double\n"+letters, 1)
		}
		s.write("job.yaml", text)
		for _, args := range [][]string{{"validate", "job.yaml"}, {"run", "job.yaml"}, {"run", "job.yaml", "--resume"}} {
			if c.apart {
				s.run(exitOK, args...)
				continue
			}
			r := try(args...)
			if r.code != exitUsage || !strings.Contains(r.errors, "source.file.path: ") || !strings.Contains(r.errors, "matches what the job itself writes into") {
				t.Errorf("%s: %v: exit code %d\n%s", name, args, r.code, r.errors)
			}
		}
		for _, made := range []string{"out", "failed", "state", "in/out", "in/.out", "in/.checkpoints", "in/state", "in/new"} {
			if _, err := os.Stat(made); err == nil && !c.apart {
				t.Errorf("%s: %s was made", name, made)
			}
			os.RemoveAll(made)
		}
		parts, _ := filepath.Glob("in/part-*")
		for _, p := range parts {
			os.Remove(p)
		}
	}

	// Standard output and input are files too.
	s.write("job.yaml", strings.Replace(reading("{file: {path: in/*.jsonl}}", ""), "{file: {path: out}}", "{stdout: {}}", 1))
	f, err := os.OpenFile("in/b.jsonl", os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for command, code := range map[string]int{"validate": exitOK, "run": exitUsage} {
		var errs bytes.Buffer
		if got := program.Run(&cli.World{Stdout: f, Stderr: &errs}, []string{command, "job.yaml"}); got != code {
			t.Errorf("%s into its input: exit code %d\n%s", command, got, errs.String())
		}
	}
	s.write("job.yaml", strings.Replace(reading("{stdin: {}}", ""), "{file: {path: out}}", "{stdout: {}}", 1))
	var errs bytes.Buffer
	if got := program.Run(&cli.World{Stdin: f, Stdout: f, Stderr: &errs}, []string{"run", "job.yaml"}); got != exitUsage || !strings.Contains(errs.String(), "source.stdin: ") {
		t.Errorf("from and to one file: exit code %d\n%s", got, errs.String())
	}
}

// The same holds for topics.
func TestInputTopicIsNotTheOutput(t *testing.T) {
	s := newShell(t)
	for name, c := range map[string]struct{ source, want string }{
		"the results":                   {"topic: out", "sink.kafka.topic: kafka: the topic out is the job's own output"},
		"one of them":                   {"topic: [in, out]", "sink.kafka.topic: "},
		"a pattern":                     {"pattern: \"o.*\"", "sink.kafka.topic: "},
		"the dead letters":              {"topic: failed", "dead_letter.kafka.topic: kafka: the topic failed is the job's own output"},
		"the dead letters, a pattern":   {"pattern: \"in|fail.*\"", "dead_letter.kafka.topic: "},
		"others":                        {"pattern: \"in.*\"", ""},
		"a pattern of part of the name": {"pattern: \"ou\"", ""},
	} {
		text := strings.Replace(fmt.Sprintf(toKafka, "127.0.0.1:1"), "topic: in, group", c.source+", group", 1)
		s.write("job.yaml", text)
		for _, command := range []string{"validate", "run"} {
			if c.want == "" && command == "run" {
				continue // there is no broker
			}
			if r := try(command, "job.yaml"); (r.code == exitUsage) != (c.want != "") || !strings.Contains(r.errors, c.want) {
				t.Errorf("%s: %s: exit code %d\n%s", name, command, r.code, r.errors)
			}
		}
	}
}

// Input that is plainly not JSON Lines is refused, whatever the policy for bad records. Bad records
// are not refused.
func TestForeignInput(t *testing.T) {
	s := newShell(t)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	w.Write([]byte("{\"n\": 1}\n"))
	w.Close()
	for _, action := range []string{"fail", "drop", "{fallback: {twice: 0}}"} {
		with := func(source string) string {
			return strings.Replace(reading(source, ""), "  model: double\n", "  model: double\n  on_error: {record: "+action+"}\n", 1)
		}
		s.write("job.yaml", with("{file: {path: in.jsonl}}"))
		s.write("stdin.yaml", with("{stdin: {}}"))
		pipe := func(code int) string {
			f, err := os.Open("in.jsonl")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var errs bytes.Buffer
			return s.check(code, result{program.Run(&cli.World{Stdin: f, Stdout: &errs, Stderr: &errs}, []string{"run", "stdin.yaml", "--fresh"}), "", errs.String()}, nil).errors
		}
		s.write("in.jsonl", packed.String())
		for _, command := range []string{"validate", "run"} {
			s.contains(command, s.run(exitUsage, command, "job.yaml").errors, "source.file.path: ", "is not JSON Lines in UTF-8: it seems to be gzip data")
		}
		s.contains("run", pipe(exitFailed), "standard input is not JSON Lines in UTF-8: it seems to be gzip data")
		if action != "drop" { // the next record would end the job
			continue
		}
		s.write("in.jsonl", "\x1f\x8bno record\n{\"n\": 1}\n")
		s.run(exitOK, "run", "job.yaml", "--fresh")
		pipe(exitOK)
	}
}
