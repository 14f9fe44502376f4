package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/local"
)

const validateDetails = `Checks a job file and says what is wrong with it, each fault with its file, line
and column. Nothing is run, written or locked.

  --connect   also ask the model, from the job's endpoint or its own sidecar, whether
              its inputs and outputs suit the fields of the file

exit codes: 0 ok, 2 the file has faults, 1 the model could not be asked or does not suit
`

func validateJob(w *world, args []string) int {
	fs := flags("validate")
	connect := fs.Bool("connect", false, "")
	rest, code, ok := parse(w, fs, args, 1, "one job file")
	if !ok {
		return code
	}
	spec, err := job.Load(rest[0])
	if err != nil {
		fmt.Fprintln(w.stderr, err)
		return exitUsage
	}
	for _, warning := range spec.Warnings {
		fmt.Fprintln(w.stderr, "warning:", warning)
	}
	if faults := local.Check(context.Background(), spec); faults != nil {
		fmt.Fprintln(w.stderr, errors.Join(faults...))
		return exitUsage
	}
	if *connect {
		if code := askModel(w, spec); code != exitOK {
			return code
		}
	}
	fmt.Fprintf(w.stdout, "%s: ok\n", rest[0])
	return exitOK
}

// askModel opens the function once, as a subtask would, and closes it again.
func askModel(w *world, spec *job.Spec) int {
	j, err := local.Build(spec, local.Options{Stdin: w.stdin, Stdout: w.stdout})
	if err != nil {
		fmt.Fprintln(w.stderr, err)
		return exitUsage
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- j.Ask(ctx) }()
	select {
	case err = <-done:
	case s := <-w.signals:
		cancel(errInterrupted)
		<-done
		return signalCode(s)
	}
	if err != nil {
		fmt.Fprintf(w.stderr, "tensorferry validate: %v\n", spec.Fault("infer", "%v", err))
		return exitFailed
	}
	return exitOK
}
