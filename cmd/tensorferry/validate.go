package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/embedded"
	"github.com/tensorferry/tensorferry/job/inference"
)

const validateDetails = `Checks a job file and says what is wrong with it, each fault with its file, line
and column. Nothing is run, written or locked.

  --connect   also ask the model, from the job's endpoint or its own sidecar, whether
              its inputs and outputs suit the fields of the file

exit codes: 0 ok, 2 the file has faults, 1 the model could not be asked or does not suit
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
	p, faults := newParts(spec, c.World, slog.New(slog.DiscardHandler))
	if err := checkSource(context.Background(), spec, p.source); err != nil {
		faults = append(faults, err)
	}
	faults = append(faults, checkApart(context.Background(), spec, p, false)...)
	if faults != nil {
		fmt.Fprintln(c.Stderr, errors.Join(faults...))
		return exitUsage
	}
	if *connect {
		if code := askModel(c, spec, p); code != exitOK {
			return code
		}
	}
	fmt.Fprintf(c.Stdout, "%s: ok\n", rest[0])
	return exitOK
}

// askModel opens the function once, as a subtask would, and closes it again.
func askModel(c *cli.Call, spec *job.Spec, p parts) int {
	s, err := c.UnlessSignalled(context.Background(), func(ctx context.Context) error { return open(ctx, spec, p) })
	switch {
	case s != nil:
		return cli.SignalCode(s)
	case err != nil:
		return c.Fails("%v", spec.Fault("infer", "%v", err))
	}
	return exitOK
}

func open(ctx context.Context, spec *job.Spec, p parts) (err error) {
	log := slog.New(slog.DiscardHandler)
	endpoint := spec.Infer.Endpoint
	if spec.Sidecar != nil {
		e, err := embedded.Start(ctx, spec, log, nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, e.Close()) }()
		endpoint = e.Endpoint()
	}
	fn, err := inference.NewFunction(spec, endpoint, nil)
	if err != nil {
		return err
	}
	cfg, err := p.operator.Resolve()
	if err != nil {
		return err
	}
	// Whoever asks by hand does not want to wait as long as a job would.
	cfg.Hold = min(cfg.Hold, 10*time.Second)
	caller, err := fn.Open(ctx, async.Subtask{Operator: inferName, Parallelism: 1, Config: cfg, Logger: log}, nobody{})
	if err != nil {
		return err
	}
	return caller.Close()
}

// nobody takes completions that never come.
type nobody struct{}

func (nobody) Complete([]async.Completion[record]) {}
func (nobody) Suspend(error)                       {}
func (nobody) Resume()                             {}
