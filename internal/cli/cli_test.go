package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
)

// program is a program with a command that prints its arguments.
func program() *Program {
	return &Program{
		Name: "prog", About: "does a thing.",
		Parts: map[string]string{"go.uber.org/goleak": "Leaks"},
		Commands: []Command{{
			Name: "do", Usage: "do FILE [flags]", About: "do it", Details: "Does it to a file.\n",
			Run: func(c *Call) int {
				fs := c.Flags()
				times := fs.Int("times", 1, "")
				rest, code, ok := c.Parse(fs, 1, "one file")
				switch {
				case !ok:
					return code
				case *times < 0:
					return c.Misused("--times is %d", *times)
				case *times == 0:
					return c.Fails("nothing to do: %v", errors.New("0 times"))
				}
				fmt.Fprintln(c.Stdout, rest[0], *times)
				return OK
			},
		}},
	}
}

func TestProgram(t *testing.T) {
	for _, c := range []struct {
		args      string
		code      int
		out, errs string // an empty one must be empty
	}{
		{"", Usage, "", "prog does a thing.\n\nusage: prog COMMAND\n\n  do        do it\n  version   print the version of this build\n  help      explain a command\n"},
		{"help", OK, "exit codes: 0 done, 1 failed, 2 wrong usage", ""},
		{"-h", OK, "usage: prog COMMAND", ""},
		{"help do", OK, "usage: prog do FILE [flags]\n\nDoes it to a file.\n", ""},
		{"do -h", OK, "usage: prog do FILE [flags]\n\nDoes it to a file.\n", ""},
		{"do a --help", OK, "usage: prog do FILE [flags]\n", ""},
		{"help help", OK, "usage: prog help [COMMAND]\n", ""},
		{"help -h", OK, "usage: prog help [COMMAND]\n", ""},
		{"help version", OK, "usage: prog version\n\nPrints the version", ""},
		{"help dew", Usage, "", "prog: unknown command \"dew\"; see prog help\n"},
		{"dew", Usage, "", "prog: unknown command \"dew\"; see prog help\n"},
		{"version", OK, "prog ", ""},
		{"--version", OK, ", go1.", ""},
		{"--version now", OK, "prog ", ""},
		{"version now", Usage, "", "prog version: want no arguments, got 1 argument(s); see prog help version\n"},
		{"do", Usage, "", "prog do: want one file, got 0 argument(s); see prog help do\n"},
		{"do a b", Usage, "", "want one file, got 2 argument(s)"},
		{"do a", OK, "a 1\n", ""},
		{"do --times 3 a", OK, "a 3\n", ""},
		{"do a -times=3", OK, "a 3\n", ""},
		{"do -- -a", OK, "-a 1\n", ""},
		{"do -- a -b", Usage, "", "want one file, got 2 argument(s)"},
		{"do a --", OK, "a 1\n", ""},
		{"do a --often", Usage, "", "prog do: flag provided but not defined: --often; see prog help do\n"},
		{"do a --times many", Usage, "", `invalid value "many" for flag --times: parse error; see prog help do`},
		{"do a --times -1", Usage, "", "prog do: --times is -1; see prog help do\n"},
		{"do a --times 0", Failed, "", "prog do: nothing to do: 0 times\n"},
	} {
		t.Run(c.args, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := program().Run(&World{Stdout: &out, Stderr: &errs}, strings.Fields(c.args)); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, s := range []struct{ what, got, want string }{{"stdout", out.String(), c.out}, {"stderr", errs.String(), c.errs}} {
				if !strings.Contains(s.got, s.want) || s.want == "" && s.got != "" {
					t.Errorf("%s is\n%s\nwant %q in it", s.what, s.got, s.want)
				}
			}
		})
	}
}

func TestUnlessSignalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan os.Signal, 1)
		w := &World{Signals: signals}
		fault := errors.New("a fault")
		if s, err := w.UnlessSignalled(t.Context(), func(context.Context) error { return fault }); s != nil || err != fault {
			t.Errorf("without a signal: %v, %v", s, err)
		}
		s, err := w.UnlessSignalled(t.Context(), func(ctx context.Context) error {
			signals <- syscall.SIGTERM
			<-ctx.Done()
			return fault
		})
		if s != syscall.SIGTERM || err != fault {
			t.Errorf("with a signal: %v, %v", s, err)
		}
	})
}

func TestSignalCode(t *testing.T) {
	for s, want := range map[os.Signal]int{syscall.SIGHUP: 129, os.Interrupt: 130, syscall.SIGTERM: 143, nil: Failed} {
		if got := SignalCode(s); got != want {
			t.Errorf("%v: %d, want %d", s, got, want)
		}
	}
}

func TestLogger(t *testing.T) {
	for _, c := range []struct{ format, level, want string }{
		{"text", "info", "level=INFO msg=b\nlevel=WARN msg=c\n"},
		{"json", "warn", `{"level":"WARN","msg":"c"}` + "\n"},
		{"text", "debug", "level=DEBUG msg=a\nlevel=INFO msg=b\nlevel=WARN msg=c\n"},
		{"text", "", "level=INFO msg=b\nlevel=WARN msg=c\n"},
	} {
		var out bytes.Buffer
		log := Logger(&out, c.format, c.level)
		log.Debug("a")
		log.Info("b")
		log.Warn("c")
		var got strings.Builder
		for line := range strings.Lines(out.String()) {
			if _, rest, ok := strings.Cut(line, `,"msg"`); ok {
				_, level, _ := strings.Cut(line, `"level"`)
				level, _, _ = strings.Cut(level, ",")
				line = `{"level"` + level + `,"msg"` + rest
			} else {
				line = line[strings.Index(line, "level="):]
			}
			got.WriteString(line)
		}
		if got.String() != c.want {
			t.Errorf("%s, %q: got\n%swant\n%s", c.format, c.level, got.String(), c.want)
		}
	}
}
