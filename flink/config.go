package flink

import (
	"encoding/json"
	"fmt"

	"github.com/tensorferry/tensorferry/async"
)

// Config is how the operator runs on Flink. Its zero value is the documented defaults.
type Config struct {
	// Name of the transform in the pipeline and in messages. Default "infer".
	Name string
	// Order of the results of a subtask within a bundle. Default: that of its records. Keyed is not there: Flink partitions by
	// key for operators with keyed state alone.
	Order async.Order
	// Async is the operator's configuration. Checkpoint must be left out or be async.Drain, with no DrainLimit: what is in flight at a
	// barrier could not go into the checkpoint.
	Async async.Config
}

// resolve checks the configuration.
func (c Config) resolve() (Config, error) {
	if c.Name == "" {
		c.Name = "infer"
	}
	switch {
	case c.Order == async.Keyed:
		return c, fmt.Errorf("flink: %s: the order is keyed; on Flink want ordered or unordered", c.Name)
	case c.Async.Checkpoint == async.Snapshot || c.Async.DrainLimit != 0:
		return c, fmt.Errorf("flink: %s: records in flight cannot go into a checkpoint of Flink; want the drain policy, without a limit", c.Name)
	}
	c.Async.Checkpoint = async.Drain
	if _, err := c.Async.Resolve(c.Order); err != nil {
		return c, fmt.Errorf("flink: %s: %w", c.Name, err)
	}
	return c, nil
}

// Maker makes the function on the worker. It travels there as JSON of its exported fields, so it has no fields of function or interface
// types, and files that it names must be on every worker.
type Maker[IN, OUT any] interface {
	// Function returns the function of one subtask. It is called again after each restart.
	Function() (async.Function[IN, OUT], error)
}

// travels checks that a maker comes out of JSON as it went in.
func travels[M any](m M) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("flink: %T does not travel as JSON: %w", m, err)
	}
	var again M
	if err := json.Unmarshal(text, &again); err != nil {
		return fmt.Errorf("flink: %T does not come back from JSON: %w", m, err)
	}
	second, err := json.Marshal(again)
	if err == nil && string(second) != string(text) {
		err = fmt.Errorf("it went as %.200s and came back as %.200s", text, second)
	}
	if err != nil {
		return fmt.Errorf("flink: %T loses something on the way to the workers: %w", m, err)
	}
	return nil
}
