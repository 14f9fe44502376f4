package stream

import "time"

// Observer is told what happens to a job as a whole, never of single records. Observe is called
// from the job's own goroutines, one call at a time, and must not block.
type Observer interface{ Observe(Event) }

// Event is one of the types below.
type Event interface{ event() }

// Started: every subtask of an attempt runs.
type Started struct {
	Attempt int
	// Restored is the checkpoint it went on from, 0 for the run's beginning.
	Restored int64
}

// CheckpointCompleted: a checkpoint is durable and its results are published. Those that only say
// where sources are read from, before anything is read, are not told of.
type CheckpointCompleted struct {
	ID       int64
	Duration time.Duration
	// Kept is how long, of Duration, keeping the checkpoint took, which from Kafka to Kafka is
	// committing the transaction; and Published how long publishing the results took after that.
	Kept, Published time.Duration
	Final           bool
}

// CheckpointFailed: a checkpoint was given up.
type CheckpointFailed struct {
	ID  int64
	Err error
}

// Restarting: the job failed and starts again after Delay.
type Restarting struct {
	Attempt int
	Delay   time.Duration
	Err     error
}

// Ended: the run is over; Err is what Run returns.
type Ended struct{ Err error }

func (Started) event()             {}
func (CheckpointCompleted) event() {}
func (CheckpointFailed) event()    {}
func (Restarting) event()          {}
func (Ended) event()               {}

type nobody struct{}

func (nobody) Observe(Event) {}
