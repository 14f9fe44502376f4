// Command tensorferry runs streaming inference jobs, and the model servers that
// answer them.
//
// It owns the command line: flags, output and exit codes. The packages that it puts
// together do the work. It must never contain logic that a program which embeds those
// packages would miss.
package main

import (
	"context"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/tensorferry/tensorferry/internal/cli"
)

// Exit codes.
const (
	exitOK     = cli.OK
	exitFailed = cli.Failed // the job, the server or the file operation failed
	// the command line or the job file is wrong, or a run must be resumed or discarded first
	exitUsage = cli.Usage
)

var program = &cli.Program{
	Name:  "tensorferry",
	About: "runs streams of records through a model.",
	Commands: []cli.Command{
		{Name: "run", Usage: "run JOB.yaml [flags]", About: "run a job", Details: runDetails, Run: runJob},
		{Name: "validate", Usage: "validate JOB.yaml [flags]", About: "check a job file without running it", Details: validateDetails, Run: validateJob},
		{
			Name: "checkpoint", Usage: "checkpoint inspect|verify PATH", About: "show a checkpoint, or verify the files of its run",
			Details: checkpointDetails, Run: checkpointCommand,
		},
		// The servers describe their own flags.
		{Name: "sidecar", About: "serve models", Run: untilSignal(runSidecar)},
		{Name: "mock-sidecar", About: "serve a scripted model, for tests", Run: untilSignal(runMockSidecar)},
		{Name: "ferry", About: "serve the operator to stream processors in other languages", Run: untilSignal(runFerry)},
	},
}

func main() {
	w := cli.Process()
	if fd := int(os.Stderr.Fd()); term.IsTerminal(fd) && os.Getenv("TERM") != "dumb" {
		w.Size = func() (width, height int) {
			if width, height, err := term.GetSize(fd); err == nil && width > 0 && height > 0 {
				return width, height
			}
			return 80, 24
		}
	}
	os.Exit(program.Run(w, os.Args[1:]))
}

// untilSignal runs a server until the first signal; a second one ends the process
// at once.
func untilSignal(serve func(ctx context.Context, args []string, stdout, stderr io.Writer) int) func(*cli.Call) int {
	return func(c *cli.Call) int {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan int, 1)
		go func() { done <- serve(ctx, c.Args, c.Stdout, c.Stderr) }()
		defer cancel()
		select {
		case code := <-done:
			return code
		case <-c.Signals:
			cancel()
		}
		select {
		case code := <-done:
			return code
		case s := <-c.Signals:
			return cli.SignalCode(s)
		}
	}
}
