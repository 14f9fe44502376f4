package flink

import (
	"encoding/json"
	"fmt"
	"reflect"

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
	if c.Async.Tracer != nil {
		return c, fmt.Errorf("flink: %s: a tracer does not travel to the workers; want none", c.Name)
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

// parcel is what a transform is made of, on its way to the workers. It is text, since Beam wants a schema of every
// field of a transform's type, which a user's type need not have.
type parcel struct {
	Maker  string
	Config string
}

// pack writes a maker and a configuration, and checks that the maker comes out of JSON as it went in.
func pack[M any](m M, c Config) (p parcel, err error) {
	text, err := json.Marshal(m)
	if err != nil {
		return p, fmt.Errorf("flink: %s: %T does not travel as JSON: %w", c.Name, m, err)
	}
	p.Maker = string(text)
	again, _, err := unpack[M](parcel{p.Maker, "{}"})
	if err != nil {
		return p, fmt.Errorf("flink: %s: %T does not come back from JSON: %w", c.Name, m, err)
	}
	if !reflect.DeepEqual(again, m) {
		return p, fmt.Errorf("flink: %s: %T loses something on the way to the workers: it goes as %.300s; its fields must be exported, and of no function or interface type", c.Name, m, text)
	}
	text, err = json.Marshal(c)
	p.Config = string(text)
	return p, err
}

// unpack reads what pack wrote.
func unpack[M any](p parcel) (m M, c Config, err error) {
	if err := json.Unmarshal([]byte(p.Maker), &m); err != nil {
		return m, c, err
	}
	return m, c, json.Unmarshal([]byte(p.Config), &c)
}
