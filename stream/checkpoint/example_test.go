package checkpoint_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// A run that is broken off can only be resumed or discarded.
func Example() {
	dir, err := os.MkdirTemp("", "checkpoints")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	store, err := checkpoint.Open(filepath.Join(dir, ".checkpoints"), checkpoint.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	run, err := store.Start("digits")
	if err != nil {
		fmt.Println(err)
		return
	}
	err = store.Write(context.Background(), &checkpoint.Snapshot{
		ID: 1, Job: "digits", Run: run.ID, Counters: []checkpoint.Counter{{Name: "read", Value: 450}},
	})
	fmt.Println("written:", err)

	_, err = store.Start("digits")
	var unfinished *checkpoint.UnfinishedError
	fmt.Println("unfinished:", errors.As(err, &unfinished), unfinished.Checkpoint)

	run, err = store.Resume("digits")
	fmt.Println("resumed from:", run.Restore.ID, run.Restore.Counters, err)
	// Output:
	// written: <nil>
	// unfinished: true 1
	// resumed from: 1 [{read 450}] <nil>
}
