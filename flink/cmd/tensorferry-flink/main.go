// Command tensorferry-flink runs job files on Apache Flink, and the workers that Flink's
// TaskManagers need for that.
//
// It owns the command line: flags, output and exit codes. Package jobfile turns a job file into a
// pipeline, and package submit submits it to Flink.
package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/tensorferry/tensorferry/internal/cli"
)

// Exit codes.
const (
	exitOK     = cli.OK
	exitFailed = cli.Failed // the job or the worker pool failed
	exitUsage  = cli.Usage  // the command line or the job file is wrong
)

var program = &cli.Program{
	Name:  "tensorferry-flink",
	About: "runs the jobs of tensorferry on Apache Flink.",
	Commands: []cli.Command{
		{Name: "run", Usage: "run --job-server HOST:PORT JOB.yaml [flags]", About: "run a job on Flink", Details: runDetails, Run: runJob},
		{Name: "validate", Usage: "validate JOB.yaml", About: "check a job file for Flink without running it", Details: validateDetails, Run: validateJob},
		{Name: "worker", Usage: "worker [--listen HOST:PORT]", About: "serve workers to the TaskManager on this machine", Details: workerDetails, Run: runWorker},
	},
	Parts: map[string]string{"github.com/apache/beam/sdks/v2": "Beam"},
}

func main() {
	w := cli.Process()
	// Call it first: in a process that Beam has started as a worker, it does not return.
	beam.Init()
	os.Exit(program.Run(w, os.Args[1:]))
}

// newLogger makes a logger, and makes it the process's default, which Beam's transforms use.
func newLogger(out io.Writer, format string) *slog.Logger {
	log := cli.Logger(out, format, "info")
	slog.SetDefault(log)
	return log
}
