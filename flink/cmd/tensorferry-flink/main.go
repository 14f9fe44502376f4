// Command tensorferry-flink runs job files on Apache Flink, and the workers that Flink's TaskManagers need for that.
//
// It owns the command line: what is asked, what is shown, and the exit code. What a job file becomes is in package jobfile, how it reaches Flink in
// package submit.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

// Exit codes. A signal's code is 128 and its number, as shells have it.
const (
	exitOK      = 0
	exitFailed  = 1 // the job or the worker pool failed
	exitUsage   = 2 // the command line or the job file
	exitSignals = 128
)

// world is what a command has of its surroundings; a test makes its own.
type world struct {
	stdout, stderr io.Writer
	// signals are those that ask the process to end.
	signals <-chan os.Signal
}

func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Before anything else: a process that Beam has started as a worker is one from here on.
	beam.Init()
	os.Exit(dispatch(&world{stdout: os.Stdout, stderr: os.Stderr, signals: signals}, os.Args[1:]))
}

// command is one word of the command line.
type command struct {
	name, usage, about string
	details            string
	run                func(w *world, args []string) int
}

func commands() []command {
	return []command{
		{"run", "run --job-server HOST:PORT JOB.yaml [flags]", "run a job on Flink", runDetails, runJob},
		{"validate", "validate JOB.yaml", "check a job file for Flink without running it", validateDetails, validateJob},
		{"worker", "worker [--listen HOST:PORT]", "serve workers to the TaskManager beside", workerDetails, runWorker},
		{"version", "version", "say which build this is", "", versionCommand},
	}
}

func dispatch(w *world, args []string) int {
	if len(args) == 0 {
		overview(w.stderr)
		return exitUsage
	}
	name := args[0]
	switch name {
	case "-h", "-help", "--help", "help":
		if name != "help" || len(args) == 1 {
			overview(w.stdout)
			return exitOK
		}
		name, args = args[1], []string{args[1], "-h"}
	case "-version", "--version":
		name = "version"
	}
	for _, c := range commands() {
		if c.name == name {
			return c.run(w, args[1:])
		}
	}
	fmt.Fprintf(w.stderr, "tensorferry-flink: unknown command %q; see tensorferry-flink help\n", name)
	return exitUsage
}

func overview(out io.Writer) {
	fmt.Fprint(out, "tensorferry-flink runs the jobs of tensorferry on Apache Flink.\n\nusage: tensorferry-flink COMMAND\n\n")
	for _, c := range commands() {
		fmt.Fprintf(out, "  %-10s %s\n", c.name, c.about)
	}
	fmt.Fprint(out, "\ntensorferry-flink help COMMAND explains one.\n\n"+
		"exit codes: 0 done, 1 failed, 2 wrong usage or job file, 129, 130 and 143 ended by SIGHUP, SIGINT and SIGTERM\n")
}

// parse reads flags, which may stand before, between and behind the arguments. If ok is false the command ends with code.
func parse(w *world, fs *flag.FlagSet, args []string, want int, what string) (rest []string, code int, ok bool) {
	fs.SetOutput(io.Discard)
	for {
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			for _, c := range commands() {
				if c.name == fs.Name() {
					fmt.Fprintf(w.stdout, "usage: tensorferry-flink %s\n\n%s", c.usage, c.details)
				}
			}
			return nil, exitOK, false
		}
		if err != nil {
			return nil, usage(w, fs.Name(), "%s", strings.ReplaceAll(err.Error(), " -", " --")), false
		}
		if fs.NArg() == 0 {
			break
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
	if len(rest) != want {
		return nil, usage(w, fs.Name(), "want %s, got %d argument(s)", what, len(rest)), false
	}
	return rest, exitOK, true
}

func usage(w *world, name, format string, args ...any) int {
	fmt.Fprintf(w.stderr, "tensorferry-flink %s: %s; see tensorferry-flink help %s\n", name, fmt.Sprintf(format, args...), name)
	return exitUsage
}

func signalCode(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return exitSignals + int(n)
	}
	return exitFailed
}

// newLogger also becomes the process's own, which Beam's transforms use.
func newLogger(out io.Writer, format string) *slog.Logger {
	var h slog.Handler = slog.NewTextHandler(out, nil)
	if format == "json" {
		h = slog.NewJSONHandler(out, nil)
	}
	log := slog.New(h)
	slog.SetDefault(log)
	return log
}

func versionCommand(w *world, args []string) int {
	fs := flag.NewFlagSet("version", flag.ContinueOnError)
	if _, code, ok := parse(w, fs, args, 0, "no arguments"); !ok {
		return code
	}
	version := "of unknown version"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, m := range info.Deps {
			if m.Path == "github.com/apache/beam/sdks/v2" {
				version += ", Beam " + m.Version
			}
		}
	}
	fmt.Fprintf(w.stdout, "tensorferry-flink %s\n", version)
	return exitOK
}
