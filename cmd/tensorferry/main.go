// Command tensorferry runs streaming inference jobs, and the model servers that
// answer them.
//
// It owns the command line: what is asked, what is shown, and the exit code. What a
// job does is in the packages that it puts together; it must never hold logic
// that a program which embeds those packages would miss.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

// Exit codes. A signal's code is 128 and its number, as shells have it.
const (
	exitOK      = 0
	exitFailed  = 1 // the job, the server or the file operation failed
	exitUsage   = 2 // the command line or the job file, or a run that must be resumed or discarded first
	exitSignals = 128
)

// world is what a command has of its surroundings; a test makes its own.
type world struct {
	stdin          *os.File
	stdout, stderr io.Writer
	// signals are those that ask the process to end.
	signals <-chan os.Signal
	// grace is how long a job has to end when it is told to do so at once; 0: endGrace.
	grace time.Duration
	// size of the terminal behind stderr, in characters; nil if it is none.
	size func() (width, height int)
}

func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Whoever read the results is gone: writing them fails, and the job ends as after any other failure.
	signal.Ignore(syscall.SIGPIPE)
	w := &world{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, signals: signals}
	if fd := int(os.Stderr.Fd()); term.IsTerminal(fd) && os.Getenv("TERM") != "dumb" {
		w.size = func() (width, height int) {
			if width, height, err := term.GetSize(fd); err == nil && width > 0 && height > 0 {
				return width, height
			}
			return 80, 24
		}
	}
	os.Exit(dispatch(w, os.Args[1:]))
}

// command is one word of the command line.
type command struct {
	name, usage, about string
	// details follow the usage line in the command's own help.
	details string
	run     func(w *world, args []string) int
}

// commands returns the commands in the order of the help. It is a function
// because help is one of them.
func commands() []command {
	return []command{
		{"run", "run JOB.yaml [flags]", "run a job", runDetails, runJob},
		{"validate", "validate JOB.yaml [flags]", "check a job file without running it", validateDetails, validateJob},
		{"checkpoint", "checkpoint inspect|verify PATH", "show what is in a checkpoint, or check what it needs", checkpointDetails, checkpointCommand},
		{"sidecar", "sidecar --listen ENDPOINT --model NAME=FILE [flags]", "serve models", "", untilSignal(runSidecar)},
		{"mock-sidecar", "mock-sidecar --listen ENDPOINT [flags]", "serve a scripted model, for tests", "", untilSignal(runMockSidecar)},
		{"version", "version", "say which build this is", "Prints the version, the commit it was built from, and the Go release and system it was built with and for.\n", versionCommand},
		{"help", "help [COMMAND]", "explain a command", "", helpCommand},
	}
}

func find(name string) (command, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

func dispatch(w *world, args []string) int {
	if len(args) == 0 {
		overview(w.stderr)
		return exitUsage
	}
	switch args[0] {
	case "-h", "-help", "--help":
		overview(w.stdout)
		return exitOK
	case "-version", "--version":
		return versionCommand(w, nil)
	}
	if c, ok := find(args[0]); ok {
		return c.run(w, args[1:])
	}
	fmt.Fprintf(w.stderr, "tensorferry: unknown command %q; see tensorferry help\n", args[0])
	return exitUsage
}

func overview(out io.Writer) {
	fmt.Fprint(out, "tensorferry takes streams of records to a model and back.\n\nusage: tensorferry COMMAND\n\n")
	for _, c := range commands() {
		fmt.Fprintf(out, "  %-14s %s\n", c.name, c.about)
	}
	fmt.Fprint(out, "\ntensorferry help COMMAND explains one.\n\n"+
		"exit codes: 0 done, 1 failed, 2 wrong usage or job file, 130 and 143 stopped by SIGINT and SIGTERM\n")
}

func helpCommand(w *world, args []string) int {
	if len(args) == 0 {
		overview(w.stdout)
		return exitOK
	}
	c, ok := find(args[0])
	if !ok {
		fmt.Fprintf(w.stderr, "tensorferry: unknown command %q; see tensorferry help\n", args[0])
		return exitUsage
	}
	if c.details == "" && c.name != "version" && c.name != "help" {
		// The servers describe their own flags.
		return c.run(w, []string{"-h"})
	}
	c.help(w.stdout)
	return exitOK
}

func (c command) help(out io.Writer) {
	fmt.Fprintf(out, "usage: tensorferry %s\n\n%s", c.usage, c.details)
}

// flags makes the flag set of a command.
func flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// parse reads flags, which may stand before, between and behind the arguments. If
// ok is false the command ends with code: help was asked for, or something is
// wrong and has been said.
func parse(w *world, fs *flag.FlagSet, args []string, want int, what string) (rest []string, code int, ok bool) {
	for {
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			c, _ := find(fs.Name())
			c.help(w.stdout)
			return nil, exitOK, false
		}
		if err != nil {
			return nil, usage(w, fs.Name(), "%s", strings.ReplaceAll(err.Error(), " -", " --")), false
		}
		if fs.NArg() == 0 {
			break
		}
		// A "--" ends the flags; what follows are arguments, whatever they look like.
		if n := len(args) - fs.NArg(); n > 0 && args[n-1] == "--" {
			rest = append(rest, fs.Args()...)
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
	fmt.Fprintf(w.stderr, "tensorferry %s: %s; see tensorferry help %s\n", name, fmt.Sprintf(format, args...), name)
	return exitUsage
}

// untilSignal runs a server until the first signal; a second one ends the process
// at once.
func untilSignal(serve func(ctx context.Context, args []string, stdout, stderr io.Writer) int) func(*world, []string) int {
	return func(w *world, args []string) int {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan int, 1)
		go func() { done <- serve(ctx, args, w.stdout, w.stderr) }()
		defer cancel()
		select {
		case code := <-done:
			return code
		case <-w.signals:
			cancel()
		}
		select {
		case code := <-done:
			return code
		case s := <-w.signals:
			return signalCode(s)
		}
	}
}

func signalCode(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return exitSignals + int(n)
	}
	return exitFailed
}
