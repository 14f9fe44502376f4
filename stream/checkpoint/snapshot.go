package checkpoint

import "time"

// Snapshot is the state of a whole job at one checkpoint: enough to go on from
// it, and to say what it was.
type Snapshot struct {
	// ID counts the checkpoints of a run, from 1. That with the id 0 says where the run began: it
	// is kept before anything is read, and publishes nothing.
	ID int64
	// Job is the job's name, Run the id of the run, Attempt how often it was
	// started before (restarts and resumptions).
	Job, Run string
	Attempt  int
	// Created is when the manifest was written.
	Created time.Time
	// Finished marks the final checkpoint of a run that read its whole input.
	Finished bool
	// Identity is what must not differ at a restore (order, model, codec, ...).
	Identity []Property
	// Counters of the run up to this checkpoint (records in, completed, ...).
	Counters []Counter
	// Sections hold the operators' states.
	Sections []Section
}

// Property is one named fact of a job's identity.
type Property struct{ Name, Value string }

// Counter is one named count.
type Counter struct {
	Name  string
	Value int64
}

// Section is the state of one operator.
type Section struct {
	// Operator names the operator within its job; Kind what sort of state it is
	// ("source", "async", "sink", ...).
	Operator, Kind string
	// Parallelism of the operator when the snapshot was taken.
	Parallelism int
	// Parts are keyed by split, so that they can move between subtasks.
	Parts []Part
}

// Part is a piece of an operator's state.
type Part struct {
	// Split that the part belongs to; -1 for none.
	Split int
	// Subtask that wrote it.
	Subtask int
	// Name tells several parts of one split apart.
	Name string
	Data []byte
}
