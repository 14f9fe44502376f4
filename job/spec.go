package job

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/tensor"
)

// Off, as a field of a Spec, means none where zero means the host's default: no Infer.Timeout, no
// Infer.MaxBytes, no retries (Retry.Max), no bound on retries (Retry.Budget). The file says 0, or
// none.
const Off = -1

// DefaultStopTimeout is how long a stop with a checkpoint may take, if the file does not say.
const DefaultStopTimeout = 30 * time.Second

// Spec is the content of a job file. Durations, counts and sizes that the file leaves out are zero;
// the default is then the one named here, or otherwise the host's. Paths are joined with the job
// file's folder. Its readers do not change a Spec, so goroutines may share it.
type Spec struct {
	// File is the job file's name as it was passed to Load or Parse.
	File string
	// Name is the job's name: letters, digits, ".", "_" and "-", at most 64 characters.
	Name string
	// Parallelism is the number of subtasks. Default 1.
	Parallelism int
	Source      Source
	Infer       Infer
	Sink        Sink
	// DeadLetter is where records go whose failure has the action dead_letter. It is nil if, and
	// only if, no class of Infer.OnError has that action.
	DeadLetter *DeadLetter
	Checkpoint Checkpoint
	// Restart says how a failed job starts again. Its Strategy is empty if the file leaves the
	// choice to the host.
	Restart Restart
	// Sidecar is nil if the job does not bring its own model server.
	Sidecar *Sidecar
	// StopTimeout is how long a stop with a checkpoint may take. Default 30 s.
	StopTimeout time.Duration
	// Log says what is logged, and in which form.
	Log Log
	// Trace is nil if no spans are recorded.
	Trace *Trace
	// Warnings are about parts of the file that work but should be written differently, such as
	// keys under their old names. A host shows each once.
	Warnings Faults

	at map[string]Position
}

// Source is where records come from. Exactly one field is not nil.
type Source struct {
	File  *FileSource
	Stdin *StdinSource
	Kafka *KafkaSource
}

// FileSource reads JSON Lines files.
type FileSource struct {
	// Paths are files or patterns, in the order of the job file.
	Paths []string
	// SplitSize is the number of bytes of a file in one split. 0: the host's default.
	SplitSize int64
	// MaxLine is the longest line, in bytes. 0: the host's default.
	MaxLine int
}

// StdinSource reads JSON Lines from standard input, which can be read only once. MaxLine is the
// longest line, in bytes; 0: the host's default.
type StdinSource struct{ MaxLine int }

// Infer is the model that answers the records, and how the job calls it.
type Infer struct {
	// Endpoint is the model server's, in the form of package sidecar/endpoint. It may be empty only
	// if the job brings a sidecar.
	Endpoint string
	Model    string
	// Version of the model. Empty: the server chooses.
	Version string
	// Order is the order of the results. It is never empty.
	Order Order
	// Key names the field whose value is a record's key, by a path like that of an input. It is set
	// if, and only if, the order is OrderKeyed.
	Key Field
	// Capacity is the largest number of records that are admitted and not yet emitted, in each
	// subtask. MaxBytes is the largest number of their bytes; Off means no such bound.
	Capacity int
	MaxBytes int64
	// Timeout is the time that a record may take over all attempts. Off: no limit.
	Timeout time.Duration
	// Hold is how long a record may wait for a server that is overloaded or out of reach.
	Hold time.Duration
	// MaxCalls is the largest number of calls in progress, in each subtask.
	MaxCalls int
	Retry    Retry
	// OnError says what happens to a record that failed, by the class of its failure: "record",
	// "timeout", "overload", "transport", "backend" and "permanent". A class that is missing fails
	// the job.
	OnError map[string]OnError
	// Barrier says what a checkpoint does with calls in progress.
	Barrier BarrierPolicy
	// DrainLimit ends the wait of BarrierDrain; after it the checkpoint works like BarrierSnapshot.
	// 0: no limit.
	DrainLimit time.Duration
	// MaxBatch is the largest number of records in a request. MaxBatchBytes is the largest size
	// of their tensors, in bytes; a larger record is sent alone.
	MaxBatch, MaxBatchBytes int
	// Window is the largest number of requests in flight, in each subtask.
	Window int
	// MaxMessage is the largest size of a request and of an answer, in bytes.
	MaxMessage int
	// SharedMemory is how many bytes of shared memory each subtask reserves for tensors. 0: none.
	SharedMemory int
	// SharedMemoryMin is the least size of the inputs of a request, in bytes, for which they go
	// to shared memory. The same least size applies to its outputs.
	SharedMemoryMin int
	// OpenTimeout is how long the start of a subtask may wait for the server. 0: as long as
	// Hold.
	OpenTimeout time.Duration
	// Reconnect sets the delays between attempts to connect.
	Reconnect Reconnect
	// NotIdempotent says that a call that was sent and lost must not be sent again.
	NotIdempotent bool
	// Inputs maps the model's inputs to fields of the record, and Outputs the
	// model's outputs to fields of the result. Nil: fields of the same names.
	Inputs  map[string]Field
	Outputs map[string]Output
	// Tensors states the model's inputs and outputs, for a server that does not describe them. Nil:
	// the server describes them.
	Tensors *Tensors
	// Overwrite lets an output replace a field that the record already has.
	Overwrite bool
	// TLS is nil for a plain connection.
	TLS *TLS
}

// Field names a field of a record. For an input it is a path, in which "a.b" is field b of the
// object in field a. For an output it is a name.
type Field struct{ Field string }

// Output is the place for an output's values, and for what stands for values that JSON does not
// have.
type Output struct {
	// Field of the result.
	Field string
	NaN   NaN `json:",omitempty"`
}

// NaN says what happens to a number that JSON does not have: NaN or an infinity.
type NaN string

// The values of NaN. The zero value is NaNNull.
const (
	NaNNull   NaN = ""
	NaNFail   NaN = "fail"
	NaNString NaN = "string"
)

// Tensors are a model's inputs and outputs, sorted by name. Their shapes include the batch, as a
// server would describe them; -1 is a dimension of any size.
type Tensors struct{ Inputs, Outputs []tensor.Spec }

// Retry says how failed attempts are repeated.
type Retry struct {
	// Max is how many attempts may follow the first; Off for none.
	Max        int
	Delay      time.Duration
	Multiplier float64
	MaxDelay   time.Duration
	// Jitter is the share by which each delay is changed at random. Nil: the default, because 0 is
	// a valid choice.
	Jitter *float64
	// Budget is the largest number of retries of all records of a subtask together. Off: no bound.
	Budget int
}

// Reconnect sets the delays between attempts to connect. The first delay is Delay, and each further
// one is Multiplier times longer, up to MaxDelay.
type Reconnect struct {
	Delay, MaxDelay time.Duration
	Multiplier      float64
	// Jitter is the share, less than 1, by which each delay is changed at random. Nil: the
	// default, because 0 is a valid choice.
	Jitter *float64
}

// Order says in which order results are emitted.
type Order string

// The values of Order.
const (
	// OrderOrdered: in the order of their records.
	OrderOrdered Order = "ordered"
	// OrderUnordered: as soon as they arrive.
	OrderUnordered Order = "unordered"
	// OrderKeyed: in the order of their records, among the results of one key.
	OrderKeyed Order = "keyed"
)

// OnError is what happens to a record that failed. Its zero value fails the job.
type OnError struct {
	Action Action
	// Fields of the action fallback, which the result has instead of the model's, in the order of
	// the file.
	Fields []FallbackField
}

// FallbackField is a field's name and its value, as JSON.
type FallbackField struct {
	Name  string
	Value json.RawMessage
}

// Action says what to do about a failure.
type Action string

// The values of Action.
const (
	ActionFail       Action = "fail"
	ActionDrop       Action = "drop"
	ActionDeadLetter Action = "dead_letter"
	ActionFallback   Action = "fallback"
)

// BarrierPolicy says what a checkpoint does with calls in progress.
type BarrierPolicy string

// The values of BarrierPolicy.
const (
	BarrierDefault  BarrierPolicy = ""
	BarrierDrain    BarrierPolicy = "drain"
	BarrierSnapshot BarrierPolicy = "snapshot"
)

// TLS describes an encrypted connection, to a model server, a broker or a collector. The files are
// PEM.
type TLS struct {
	// CA is the file of the authority that signs the server's certificate. Empty: the system's
	// authorities.
	CA string
	// Cert and Key are the files of the client's own certificate: both or neither.
	Cert, Key string
	// ServerName replaces the host name that the certificate is checked for.
	ServerName string
}

// Sink is where results go. Exactly one field is set.
type Sink struct {
	File   *FileSink
	Stdout bool
	Kafka  *KafkaSink
}

// DeadLetter is where failed records go. Exactly one field is set.
type DeadLetter struct {
	File  *FileSink
	Kafka *KafkaSink
}

// FileSink writes JSON Lines files into a folder.
type FileSink struct {
	Path string
	// Consumed says that other programs may remove published files.
	Consumed bool
}

// Checkpoint says when checkpoints are taken and where they are kept.
type Checkpoint struct {
	// Interval is the time between checkpoints. 0: the host chooses; if results can wait for it,
	// only the final checkpoint is taken.
	Interval time.Duration
	// Timeout is how long a checkpoint may take. MinPause is the least time between the end of one
	// checkpoint and the start of the next.
	Timeout, MinPause time.Duration
	// TolerableFailures is how many checkpoints in a row may fail before the job fails.
	TolerableFailures int
	// Retain is how many checkpoints are kept.
	Retain int
	// Dir is the folder of the checkpoints. Empty: the host's choice.
	Dir string
}

// Restart says how a failed job starts again. Fields that do not belong to the strategy are zero.
type Restart struct {
	// Strategy is "", "none", "fixed-delay", "failure-rate" or "exponential-delay".
	Strategy string
	// Attempts is the number of attempts of fixed-delay, or of exponential-delay before it resets
	// (0: no bound).
	Attempts int
	// Delay is the wait before a restart, of fixed-delay and failure-rate.
	Delay time.Duration
	// MaxFailures is how many failures within Interval failure-rate allows.
	MaxFailures int
	Interval    time.Duration
	// InitialDelay, MaxDelay, Multiplier, Jitter and ResetAfter belong to exponential-delay.
	InitialDelay, MaxDelay time.Duration
	Multiplier             float64
	// Jitter is nil for the default, because 0 is a valid choice.
	Jitter     *float64
	ResetAfter time.Duration
}

// Sidecar is a model server that starts and stops with the job.
type Sidecar struct {
	// Models by name.
	Models map[string]Model
	// MaxBatch is the largest number of rows that the sidecar runs at once.
	MaxBatch int
	// MaxBatchDelay is how long the sidecar gathers rows while the model is busy.
	MaxBatchDelay time.Duration
	// QueueRows, QueueBytes and QueueTimeout are the bounds on what waits in the sidecar: rows,
	// bytes and time.
	QueueRows    int
	QueueBytes   int64
	QueueTimeout time.Duration
}

// Model is where a model is, and how it is loaded.
type Model struct {
	// Location is a file, or begins with a backend's name ("mock:double"). A question mark in it
	// begins options, written like the query of a URL.
	Location string
	// Options are further options of the backend, as text.
	Options map[string]string
}

// Log says what is logged, and how. Empty fields are the host's choice.
type Log struct {
	// Level is "debug", "info", "warn" or "error".
	Level string
	// Format is "text" or "json".
	Format string
}

// Has reports whether the file has a key, which is named by its path ("infer.inputs").
func (s *Spec) Has(path string) bool { _, ok := s.at[path]; return ok }

// Fault returns an error at the place of a key, which is named by its path ("infer.inputs.pixels").
// If the file does not have the key, it is the place of the nearest parent. A host reports with it
// what only the host can find out.
func (s *Spec) Fault(path, format string, args ...any) Fault {
	return Fault{File: s.File, Position: place(s.at, path), Message: path + ": " + fmt.Sprintf(format, args...)}
}
