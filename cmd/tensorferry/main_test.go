package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tensorferry/tensorferry/internal/cli"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// result is the outcome of a command.
type result struct {
	code        int
	out, errors string
}

func try(args ...string) result {
	var out, errs bytes.Buffer
	code := program.Run(&cli.World{Stdout: &out, Stderr: &errs}, args)
	return result{code, out.String(), errs.String()}
}

func TestUsage(t *testing.T) {
	cases := []struct {
		args string
		code int
		// out and errors must hold these; an empty one must be empty.
		out, errors string
	}{
		{"", exitUsage, "", "usage: tensorferry COMMAND"},
		{"help", exitOK, "checkpoint     show a checkpoint", ""},
		{"--help", exitOK, "usage: tensorferry COMMAND", ""},
		{"rnu x", exitUsage, "", `tensorferry: unknown command "rnu"; see tensorferry help`},
		{"help rnu", exitUsage, "", `tensorferry: unknown command "rnu"; see tensorferry help`},
		{"version", exitOK, "tensorferry ", ""},
		{"--version", exitOK, "tensorferry ", ""},
		{"version now", exitUsage, "", "tensorferry version: want no arguments, got 1 argument(s)"},
		{"help run", exitOK, "--resume", ""},
		{"run -h", exitOK, "usage: tensorferry run JOB.yaml", ""},
		{"run", exitUsage, "", "tensorferry run: want one job file, got 0 argument(s)"},
		{"run a.yaml b.yaml", exitUsage, "", "want one job file, got 2 argument(s)"},
		{"run a.yaml --resum", exitUsage, "", "tensorferry run: flag provided but not defined: --resum; see tensorferry help run"},
		{"run a.yaml --resume --fresh", exitUsage, "", "want at most one of --resume, --fresh and --from"},
		{"run a.yaml --log-format xml", exitUsage, "", `--log-format is "xml"; want text or json`},
		{"run --log-level loud a.yaml", exitUsage, "", `--log-level is "loud"; want debug, info, warn or error`},
		{"run testdata/absent.yaml", exitUsage, "", "job file testdata/absent.yaml: no such file or directory"},
		{"run -- -x.yaml", exitUsage, "", "job file -x.yaml: no such file or directory"},
		{"validate testdata/absent.yaml", exitUsage, "", "job file testdata/absent.yaml: no such file or directory"},
		{"checkpoint show x", exitUsage, "", `tensorferry checkpoint: unknown command "show"; want inspect`},
		{"checkpoint inspect testdata/absent", exitFailed, "", "no such file or directory"},
		{"checkpoint inspect main.go", exitFailed, "", "main.go"},
	}
	for _, c := range cases {
		t.Run(c.args, func(t *testing.T) {
			got := try(strings.Fields(c.args)...)
			if got.code != c.code {
				t.Errorf("exit code %d, want %d", got.code, c.code)
			}
			for _, s := range []struct{ what, got, want string }{{"stdout", got.out, c.out}, {"stderr", got.errors, c.errors}} {
				if !strings.Contains(s.got, s.want) || (s.want == "" && s.got != "") {
					t.Errorf("%s is\n%s\nwant %q in it", s.what, s.got, s.want)
				}
			}
		})
	}
}
