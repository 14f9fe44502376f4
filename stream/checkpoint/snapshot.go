package checkpoint

import "time"

// Snapshot is the state of a whole job at one checkpoint. It is enough to go on from there, and it
// says which job and run it belongs to.
type Snapshot struct {
	// ID numbers the checkpoints of a run, from 1. The checkpoint with the id 0 says where the run
	// began. It is kept before anything is read, and publishes nothing.
	ID int64
	// Job is the name of the job, and Run the id of the run. Attempt counts the starts of the run
	// before this one, which are restarts and resumptions.
	Job, Run string
	Attempt  int
	// Created is when the snapshot was put together.
	Created time.Time
	// Finished says that this is the last checkpoint of a run that read its whole input.
	Finished bool
	// Identity holds the properties that must be the same at a restore, such as the order, the
	// model and the codec.
	Identity []Property
	// Counters hold the counts of the run up to this checkpoint, such as the records that were read
	// and completed.
	Counters []Counter
	// Sections hold the states of the operators.
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
	// Operator is the operator's name within its job. Kind says what sort of state it is:
	// KindSource, KindAsync or KindSink.
	Operator, Kind string
	// Parallelism is that of the operator when the snapshot was taken.
	Parallelism int
	// Parts hold the state, each for one split, so that they can move between subtasks.
	Parts []Part
}

// Part is a piece of an operator's state.
type Part struct {
	// Split is the split to which the part belongs, or -1.
	Split int
	// Subtask is the number of the subtask that wrote the part.
	Subtask int
	// Name distinguishes several parts of one split.
	Name string
	Data []byte
}
