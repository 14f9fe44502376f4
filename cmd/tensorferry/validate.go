package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/internal/cli"

	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/local"
)

const validateDetails = `Checks a job file and prints its faults, each with file, line and column. It runs,
writes and locks nothing.

  --connect   also ask the model server (at the job's endpoint, or the job's own sidecar)
              whether the model's inputs and outputs fit the fields of the file

exit codes: 0 ok, 2 the file has faults, 1 the model could not be asked or does not fit
`

func validateJob(c *cli.Call) int {
	fs := c.Flags()
	connect := fs.Bool("connect", false, "")
	rest, code, ok := c.Parse(fs, 1, "one job file")
	if !ok {
		return code
	}
	spec, err := job.Load(rest[0])
	if err != nil {
		fmt.Fprintln(c.Stderr, err)
		return exitUsage
	}
	for _, warning := range spec.Warnings {
		fmt.Fprintln(c.Stderr, "warning:", warning)
	}
	if faults := local.Check(context.Background(), spec); faults != nil {
		fmt.Fprintln(c.Stderr, errors.Join(faults...))
		return exitUsage
	}
	if *connect {
		if code := askModel(c, spec); code != exitOK {
			return code
		}
	}
	fmt.Fprintf(c.Stdout, "%s: ok\n", rest[0])
	return exitOK
}

// askModel opens the function once, as a subtask would, and closes it again.
func askModel(c *cli.Call, spec *job.Spec) int {
	j, err := local.Build(spec, local.Options{Stdin: c.Stdin, Stdout: c.Stdout})
	if err != nil {
		fmt.Fprintln(c.Stderr, err)
		return exitUsage
	}
	s, err := c.UnlessSignalled(context.Background(), j.Ask)
	switch {
	case s != nil:
		return cli.SignalCode(s)
	case err != nil:
		return c.Fails("%v", spec.Fault("infer", "%v", err))
	}
	return exitOK
}
