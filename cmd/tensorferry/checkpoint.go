package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

const checkpointDetails = `PATH is a job's checkpoint folder, or the file of one checkpoint.

inspect shows a checkpoint: its run, its counters, and the state of each operator. Of a
folder it shows the newest checkpoint and lists the others.

verify reads the checkpoints, and all result files and dead letters that their run has
published, and compares sizes and checksums. It lists what is wrong, and then exits with 1.

Nothing is locked or changed.
`

func checkpointCommand(c *cli.Call) int {
	rest, code, ok := c.Parse(c.Flags(), 2, `"inspect" or "verify", and a folder or file`)
	if !ok {
		return code
	}
	var err error
	switch rest[0] {
	case "inspect":
		err = inspect(c.World, rest[1])
	case "verify":
		err = verify(context.Background(), c.World, rest[1])
	default:
		return c.Misused("unknown command %q; want inspect or verify", rest[0])
	}
	if err != nil {
		return c.Fails("%v", err)
	}
	return exitOK
}

func inspect(w *cli.World, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		snap, err := load(path)
		if err != nil {
			return err
		}
		return checkpoint.Describe(w.Stdout, snap)
	}
	state, all, err := openFolder(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(w.Stdout, "job %s, run %s, started %d time(s), %s\n", state.Job, state.Run, state.Starts, state.Phase)
	for _, c := range all {
		fmt.Fprintf(w.Stdout, "  %s, %d bytes\n", c.Path, c.Size)
	}
	for _, d := range state.Damaged {
		fmt.Fprintf(w.Stderr, "damaged or gone: %v\n", d)
	}
	if state.Newest == nil {
		fmt.Fprintln(w.Stdout, "no checkpoint yet")
		return nil
	}
	fmt.Fprintln(w.Stdout)
	return checkpoint.Describe(w.Stdout, state.Newest)
}

// load reads the file of one checkpoint.
func load(path string) (*checkpoint.Snapshot, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	snap, err := checkpoint.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return snap, nil
}

// openFolder reads a checkpoint folder without locking it.
func openFolder(path string) (state checkpoint.State, all []checkpoint.Info, err error) {
	store, err := checkpoint.Open(path, checkpoint.Options{ReadOnly: true})
	if err != nil {
		return state, nil, err
	}
	defer store.Close()
	all, err = store.List()
	if err != nil {
		return state, nil, err
	}
	if state, err = store.State(); err == nil && state.Phase == checkpoint.Empty {
		err = fmt.Errorf("the folder %s does not contain a run", path)
	}
	return state, all, err
}

// verify checks the checkpoints at path, and all published files that the newest of them lists.
func verify(ctx context.Context, w *cli.World, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	var newest *checkpoint.Snapshot
	var wrong []string
	if info.IsDir() {
		state, all, err := openFolder(path)
		if err != nil && !errors.Is(err, checkpoint.ErrCorrupt) {
			return err
		}
		for _, c := range all {
			snap, err := load(c.Path)
			if err != nil {
				wrong = append(wrong, err.Error())
				continue
			}
			fmt.Fprintf(w.Stdout, "%s: checkpoint %d of job %s, %d bytes\n", c.Path, snap.ID, snap.Job, c.Size)
			newest = snap
		}
		for _, d := range state.Damaged {
			if gone, ok := errors.AsType[*checkpoint.GoneError](d); ok {
				wrong = append(wrong, gone.Error())
			}
		}
		if len(all) == 0 {
			fmt.Fprintln(w.Stdout, "no checkpoint yet")
		}
	} else {
		if newest, err = load(path); err != nil {
			return err
		}
		fmt.Fprintf(w.Stdout, "%s: checkpoint %d of job %s, %d bytes\n", path, newest.ID, newest.Job, info.Size())
	}
	if newest != nil {
		err = stream.Published(newest, func(sink string, state, plan []byte) error {
			v, ours, err := file.VerifyParts(ctx, state, plan)
			switch {
			case err != nil:
				return fmt.Errorf("%s: %w", sink, err)
			case !ours:
				fmt.Fprintf(w.Stdout, "%s: this sink writes no files\n", sink)
				return nil
			}
			fmt.Fprintf(w.Stdout, "%s: %d files, %d bytes, in %s\n", sink, v.Parts, v.Bytes, v.Dir)
			for _, some := range []struct {
				n   int
				say string
			}{
				{v.Pending, "still have hidden names; the job's next start publishes them"},
				{v.Unknown, "were published by an earlier version, so their checksums are not known"},
				{v.Taken, "were taken away, as the job allows (consumed)"},
			} {
				if some.n > 0 {
					fmt.Fprintf(w.Stdout, "  %d %s\n", some.n, some.say)
				}
			}
			wrong = append(wrong, v.Wrong...)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(wrong) == 0 {
		fmt.Fprintln(w.Stdout, "all is well")
		return nil
	}
	for _, one := range wrong {
		fmt.Fprintf(w.Stderr, "wrong: %s\n", one)
	}
	return fmt.Errorf("%d file(s) are not as they were written", len(wrong))
}
