package stream

import "time"

// Observer is notified of what happens to a job as a whole, and never of single records. Observe is
// called from the job's own goroutines, one call at a time. It must not block.
type Observer interface{ Observe(Event) }

// Event is a Started, CheckpointCompleted, CheckpointFailed, Restarting or Ended.
type Event interface{ event() }

// Started is the event that every subtask of an attempt runs. Attempt counts the starts of the run
// before it.
type Started struct {
	Attempt int
	// Restored is the id of the checkpoint from which the attempt went on, or 0 for the run's
	// beginning.
	Restored int64
}

// CheckpointCompleted is the event that a checkpoint is durable and its results are published. A
// checkpoint that only says where sources are read from, before anything is read, is not an event.
type CheckpointCompleted struct {
	ID int64
	// Duration is from the start of the checkpoint until its results were published.
	Duration time.Duration
	// Kept is the part of Duration in which the checkpoint was made durable. From Kafka to Kafka
	// that is the commit of the transaction. Published is the part after that, in which the results
	// were published.
	Kept, Published time.Duration
	// Final reports that it is the checkpoint at the end of the input.
	Final bool
}

// CheckpointFailed is the event that a checkpoint was given up. Err says why.
type CheckpointFailed struct {
	ID  int64
	Err error
}

// Restarting is the event that the job failed with Err and will start again after Delay. Attempt is
// the number of the next attempt.
type Restarting struct {
	Attempt int
	Delay   time.Duration
	Err     error
}

// Ended is the event that the run is over. Err is what Job.Run returns.
type Ended struct{ Err error }

func (Started) event()             {}
func (CheckpointCompleted) event() {}
func (CheckpointFailed) event()    {}
func (Restarting) event()          {}
func (Ended) event()               {}

type noObserver struct{}

func (noObserver) Observe(Event) {}
