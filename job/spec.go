package job

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/tensor"
)

// Off, as a field of a Spec, says none where zero means the host's default: no Infer.Timeout, no
// Infer.MaxBytes, no retries (Retry.Max), no bound for them (Retry.Budget). It is a 0, or none, in
// the file.
const Off = -1

// DefaultStopTimeout is how long a stop with a checkpoint may take.
const DefaultStopTimeout = 30 * time.Second

// Spec is what a job file says. Durations, counts and sizes that the file leaves
// out are zero, which means the default that is named here or else the host's.
// Paths are joined with the job file's folder. A Spec is not changed by its
// readers and may be shared.
type Spec struct {
	// File is the job file as its reader named it.
	File string
	// Name of the job: letters, digits, ".", "_" and "-", at most 64.
	Name string
	// Parallelism is the number of subtasks. Default 1.
	Parallelism int
	Source      Source
	Infer       Infer
	Sink        Sink
	// DeadLetter takes the records whose failure has the action DeadLetter. It is nil if, and
	// only if, no class of Infer.OnError has that action.
	DeadLetter *DeadLetter
	Checkpoint Checkpoint
	// Restart.Strategy is empty if the file leaves the choice to the host.
	Restart Restart
	// Sidecar is nil if the job brings no model server of its own.
	Sidecar *Sidecar
	// StopTimeout bounds a stop with a checkpoint. Default 30 s.
	StopTimeout time.Duration
	// Log says what is logged, and how.
	Log Log
	// Trace is nil if no spans are recorded.
	Trace *Trace
	// Warnings are what should be written otherwise and works all the same: keys by the names that
	// they had before. A host shows each once.
	Warnings Faults

	at map[string]Position
}

// Source is where records come from: exactly one field is not nil.
type Source struct {
	File  *FileSource
	Stdin *StdinSource
	Kafka *KafkaSource
}

// FileSource reads JSON Lines files.
type FileSource struct {
	// Paths are files or patterns, in the file's order.
	Paths []string
	// SplitSize is how many bytes of a file make a split; 0 is the host's default.
	SplitSize int64
	// MaxLine bounds a line, in bytes; 0 is the host's default.
	MaxLine int
}

// StdinSource reads JSON Lines from standard input. It can be read only once.
type StdinSource struct{ MaxLine int }

// Infer is the model that answers the records, and how it is asked.
type Infer struct {
	// Endpoint of the model server. It may be empty only if the job brings a sidecar.
	Endpoint string
	Model    string
	// Version of the model; empty: the server's choice.
	Version string
	// Order of the results; never empty.
	Order Order
	// Key names the field whose value is a record's key: a path as of an input. It is
	// set if, and only if, the order is OrderKeyed.
	Key Field
	// Capacity bounds the records admitted and not yet emitted, in each subtask,
	// and MaxBytes their bytes; Off for no such bound.
	Capacity int
	MaxBytes int64
	// Timeout of a record, over all attempts; Off for none.
	Timeout time.Duration
	// Hold bounds the wait of a record for a server that is overloaded or away.
	Hold time.Duration
	// MaxCalls bounds the calls in progress, in each subtask.
	MaxCalls int
	Retry    Retry
	// OnError says what becomes of a record that failed, by the class of its failure: "record",
	// "timeout", "overload", "transport", "backend" and "permanent". Classes that it lacks fail the
	// job.
	OnError map[string]OnError
	// Barrier says what a checkpoint does with calls in progress.
	Barrier BarrierPolicy
	// DrainLimit ends the wait of BarrierDrain, after which it is as BarrierSnapshot. 0: no limit.
	DrainLimit time.Duration
	// MaxBatch bounds the records of a request.
	MaxBatch int
	// Window bounds the requests in flight of a subtask.
	Window int
	// MaxMessage bounds a request and an answer, in bytes.
	MaxMessage int
	// SharedMemory is how many bytes of shared memory each subtask sets aside for tensors; 0: none.
	SharedMemory int
	// NotIdempotent: a call that was sent and lost is not sent again.
	NotIdempotent bool
	// Inputs maps the model's inputs to fields of the record, and Outputs the
	// model's outputs to fields of the result. Nil: fields of the same names.
	Inputs  map[string]Field
	Outputs map[string]Output
	// Tensors states what the model takes and gives, for a server that does not tell; nil: it
	// tells.
	Tensors *Tensors
	// Overwrite lets an output replace a field that the record already has.
	Overwrite bool
	// TLS is nil for a plain connection.
	TLS *TLS
}

// Field names a field of a record: for an input a path, in which "a.b" is field b of
// the object in field a; for an output a name.
type Field struct{ Field string }

// Output is where an output's values go, and what stands for those that JSON does not have.
type Output struct {
	// Field of the result.
	Field string
	NaN   NaN `json:",omitempty"`
}

// NaN says what becomes of a number that is none, or infinite.
type NaN string

// The values of NaN. The zero value is NaNNull.
const (
	NaNNull   NaN = ""
	NaNFail   NaN = "fail"
	NaNString NaN = "string"
)

// Tensors are a model's inputs and outputs, sorted by name. Their shapes have the batch with them,
// as a server would tell of them: -1 is a dimension of any size.
type Tensors struct{ Inputs, Outputs []tensor.Spec }

// Retry says how failed attempts are followed by others.
type Retry struct {
	// Max is how many attempts may follow the first; Off for none.
	Max        int
	Delay      time.Duration
	Multiplier float64
	MaxDelay   time.Duration
	// Jitter is the share by which each delay is changed at random. Nil for the default, since 0 is
	// a choice.
	Jitter *float64
	// Budget bounds the retries of all records of a subtask together; Off for no bound.
	Budget int
}

// Order says in which order results leave.
type Order string

// The values of Order.
const (
	// OrderOrdered: in the order of their records.
	OrderOrdered Order = "ordered"
	// OrderUnordered: as they come.
	OrderUnordered Order = "unordered"
	// OrderKeyed: those of one key in the order of their records.
	OrderKeyed Order = "keyed"
)

// OnError is what becomes of a record that failed. Its zero value fails the job.
type OnError struct {
	Action Action
	// Fields of action Fallback, which the result has in place of the model's, in the file's order.
	Fields []FallbackField
}

// FallbackField is a field's name and its value, as JSON.
type FallbackField struct {
	Name  string
	Value json.RawMessage
}

// Action is what is done about a failure.
type Action string

// The values of Action.
const (
	ActionFail       Action = "fail"
	ActionDrop       Action = "drop"
	ActionDeadLetter Action = "dead_letter"
	ActionFallback   Action = "fallback"
)

// Barrier says what a checkpoint does with calls in progress.
type BarrierPolicy string

// The values of Barrier.
const (
	BarrierDefault  BarrierPolicy = ""
	BarrierDrain    BarrierPolicy = "drain"
	BarrierSnapshot BarrierPolicy = "snapshot"
)

// TLS of a connection to a model server. The files are PEM.
type TLS struct {
	// CA signs the server's certificate; empty: the system's authorities.
	CA string
	// Cert and Key are the client's own; both or neither.
	Cert, Key string
	// ServerName replaces the host that the certificate is checked for.
	ServerName string
}

// Sink is where results go: exactly one field is set.
type Sink struct {
	File   *FileSink
	Stdout bool
	Kafka  *KafkaSink
}

// DeadLetter is where records go that failed: exactly one field is set.
type DeadLetter struct {
	File  *FileSink
	Kafka *KafkaSink
}

// FileSink writes JSON Lines files into a folder.
type FileSink struct {
	Path string
	// Consumed says that others take published files away.
	Consumed bool
}

// Checkpoint says when checkpoints are taken and where they are kept.
type Checkpoint struct {
	// Interval between checkpoints; 0: the host's choice, which is none but the
	// final one where results can wait for it.
	Interval time.Duration
	// Timeout of a checkpoint, MinPause between the end of one and the next.
	Timeout, MinPause time.Duration
	// TolerableFailures in a row, before the job fails.
	TolerableFailures int
	// Retain is how many checkpoints are kept.
	Retain int
	// Dir is the folder; empty: the host's choice.
	Dir string
}

// Restart says how a failed job starts again. Fields that do not belong to the
// strategy are zero.
type Restart struct {
	// Strategy is "", "none", "fixed-delay", "failure-rate" or "exponential-delay".
	Strategy string
	// Attempts of fixed-delay, or of exponential-delay before it resets (0: no bound).
	Attempts int
	// Delay of fixed-delay and failure-rate.
	Delay time.Duration
	// MaxFailures within Interval, of failure-rate.
	MaxFailures int
	Interval    time.Duration
	// InitialDelay, MaxDelay, Multiplier, Jitter and ResetAfter of exponential-delay.
	InitialDelay, MaxDelay time.Duration
	Multiplier             float64
	// Jitter is nil for the default, since 0 is a choice.
	Jitter     *float64
	ResetAfter time.Duration
}

// Sidecar is a model server that starts and stops with the job.
type Sidecar struct {
	// Models by name.
	Models map[string]Model
	// MaxBatch bounds the rows that the sidecar runs at once.
	MaxBatch int
	// MaxBatchDelay is how long the sidecar gathers rows while the model is busy.
	MaxBatchDelay time.Duration
	// QueueRows, QueueBytes and QueueTimeout bound what waits in the sidecar.
	QueueRows    int
	QueueBytes   int64
	QueueTimeout time.Duration
}

// Model is where a model is, and how it is loaded.
type Model struct {
	// Location is a file, or begins with a backend's name ("mock:double"). A
	// question mark in it begins options, as in the query of a URL.
	Location string
	// Options of the backend, as text, beside those in Location.
	Options map[string]string
}

// Log says what is logged, and how. Empty fields are the host's choice.
type Log struct {
	// Level is "debug", "info", "warn" or "error".
	Level string
	// Format is "text" or "json".
	Format string
}

// Fault returns an error at the place of a key, given by its path
// ("infer.inputs.pixels"); of its nearest parent if the file does not hold the
// key itself. It is how a host reports what only it can find out.
func (s *Spec) Fault(path, format string, args ...any) Fault {
	return Fault{File: s.File, Position: place(s.at, path), Message: path + ": " + fmt.Sprintf(format, args...)}
}
