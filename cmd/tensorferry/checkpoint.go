package main

import (
	"fmt"
	"os"

	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

const checkpointDetails = `Shows what is in a checkpoint: the run it is of, its counters, and the state of
each operator. PATH is a job's checkpoint folder, of which the newest checkpoint
is shown and the others are listed, or the file of one checkpoint. Nothing is
locked or changed.
`

func checkpointCommand(w *world, args []string) int {
	rest, code, ok := parse(w, flags("checkpoint"), args, 2, `"inspect" and a folder or file`)
	if !ok {
		return code
	}
	if rest[0] != "inspect" {
		return usage(w, "checkpoint", "unknown word %q, want inspect", rest[0])
	}
	if err := inspect(w, rest[1]); err != nil {
		fmt.Fprintf(w.stderr, "tensorferry checkpoint: %v\n", err)
		return exitFailed
	}
	return exitOK
}

func inspect(w *world, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		snap, err := checkpoint.Decode(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return checkpoint.Describe(w.stdout, snap)
	}
	store, err := checkpoint.Open(path, checkpoint.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer store.Close()
	state, err := store.State()
	if err != nil {
		return err
	}
	if state.Phase == checkpoint.Empty {
		return fmt.Errorf("the folder %s holds no run", path)
	}
	fmt.Fprintf(w.stdout, "job %s, run %s, started %d time(s), %s\n", state.Job, state.Run, state.Starts, state.Phase)
	all, err := store.List()
	if err != nil {
		return err
	}
	for _, c := range all {
		fmt.Fprintf(w.stdout, "  %s, %d bytes\n", c.Path, c.Size)
	}
	for _, d := range state.Damaged {
		fmt.Fprintf(w.stderr, "damaged: %v\n", d)
	}
	if state.Newest == nil {
		fmt.Fprintln(w.stdout, "no checkpoint yet")
		return nil
	}
	fmt.Fprintln(w.stdout)
	return checkpoint.Describe(w.stdout, state.Newest)
}
