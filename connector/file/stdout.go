package file

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

// DefaultMaxBytes is how much output one subtask gathers between two checkpoints.
const DefaultMaxBytes = 256 << 20

// StdoutConfig describes standard output as a sink. Encode must be set.
type StdoutConfig[T any] struct {
	// Encode makes the line of a result.
	Encode Encode[T]
	// MaxBytes is how much one subtask may write between two checkpoints. All of it is kept in
	// memory and in the checkpoint. Default 256 MiB.
	MaxBytes int
	// Output is written in place of os.Stdout, from one goroutine. A full pipe or terminal holds
	// the job up, but not beyond the end of its context. That is only so for an *os.File: nothing
	// interrupts the Write of another writer, which should therefore return in time.
	Output io.Writer
}

// Stdout writes lines to standard output each time a checkpoint is complete. The lines travel in
// the checkpoint, so none is lost. If a process crashes, the one that takes its place writes the
// lines of the last checkpoint once more. Within a checkpoint the lines are in the order of their
// splits, and those of one split are in its order.
//
// It is safe for concurrent use, and for one run at a time.
type Stdout[T any] struct {
	config StdoutConfig[T]
	out    stdoutLog
}

// NewStdout returns a sink. A mistake in the configuration is reported when the job starts.
func NewStdout[T any](c StdoutConfig[T]) *Stdout[T] { return &Stdout[T]{config: c} }

// Validate says what is wrong with the configuration.
func (s *Stdout[T]) Validate() error {
	_, err := s.config.resolve()
	return err
}

func (c StdoutConfig[T]) resolve() (StdoutConfig[T], error) {
	var errs []error
	if c.Encode == nil {
		errs = append(errs, errNoEncode)
	}
	if c.MaxBytes < 0 {
		errs = append(errs, fmt.Errorf("file: the bound of output between two checkpoints is %d; want 1 or more bytes, or 0 for %d", c.MaxBytes, DefaultMaxBytes))
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	if c.Output == nil {
		c.Output = os.Stdout
	}
	return c, errors.Join(errs...)
}

// Open implements connector.Sink.
func (s *Stdout[T]) Open(context.Context, async.Subtask) (connector.Writer[T], error) {
	c, err := s.config.resolve()
	if err != nil {
		return nil, err
	}
	return &stdoutWriter[T]{max: c.MaxBytes, encode: c.Encode, texts: map[int]*bytes.Buffer{}}, nil
}

// Committer implements connector.Sink.
func (s *Stdout[T]) Committer(context.Context) (connector.Committer, error) {
	c, err := s.config.resolve()
	if err != nil {
		return nil, err
	}
	return &stdoutCommitter{out: c.Output, log: &s.out}, nil
}

// stdoutWriter gathers the lines of one subtask, by split.
type stdoutWriter[T any] struct {
	max    int
	encode Encode[T]
	size   int
	texts  map[int]*bytes.Buffer
	failed error
}

// Write implements connector.Writer.
func (w *stdoutWriter[T]) Write(recs []async.Record[T]) error {
	if w.failed != nil {
		return w.failed
	}
	for i := range recs {
		r := &recs[i]
		line, err := lineOf(w.encode, r)
		if err != nil {
			w.failed = err
			return err
		}
		t := w.texts[r.Split]
		if t == nil {
			t = &bytes.Buffer{}
			w.texts[r.Split] = t
		}
		t.Write(line)
		t.WriteByte('\n')
		w.size += len(line) + 1
		if w.size > w.max {
			w.failed = fmt.Errorf("file: a subtask has more than %d bytes for standard output between two checkpoints; take checkpoints more often, or write to files", w.max)
			return w.failed
		}
	}
	return nil
}

// Prepare implements connector.Writer.
func (w *stdoutWriter[T]) Prepare(context.Context, int64) ([]connector.Pending, error) {
	if w.failed != nil {
		return nil, w.failed
	}
	var pending []connector.Pending
	for split, t := range w.texts {
		pending = append(pending, connector.Pending{Split: split, Data: t.Bytes()})
	}
	slices.SortFunc(pending, func(a, b connector.Pending) int { return cmp.Compare(a.Split, b.Split) })
	clear(w.texts)
	w.size = 0
	return pending, nil
}

// Close implements connector.Writer.
func (w *stdoutWriter[T]) Close() error {
	clear(w.texts)
	if w.failed == nil {
		w.failed = errors.New("file: the writer is closed")
	}
	return nil
}

// stdoutLog is how far this process has written, so that a restart within the process writes
// nothing twice.
type stdoutLog struct {
	mu      sync.Mutex
	seq     uint64 // the last plan that was begun
	written int    // bytes of its lines that were written
}

// stdoutCommitter writes the lines of complete checkpoints. Its state is the number of the last
// plan. A plan is its number and the lines.
type stdoutCommitter struct {
	out io.Writer
	log *stdoutLog
}

// Begin implements connector.Committer.
func (c *stdoutCommitter) Begin(context.Context, []byte) ([]byte, error) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.log.seq, c.log.written = 0, 0
	return binary.LittleEndian.AppendUint64(nil, 0), nil
}

// Plan implements connector.Committer.
func (c *stdoutCommitter) Plan(state []byte, pending []connector.Pending) (next, plan []byte, err error) {
	if len(state) != 8 {
		return nil, nil, errors.New("file: the state in the checkpoint is not that of a sink for standard output")
	}
	size := 8
	for _, p := range pending {
		size += len(p.Data)
	}
	if size == 8 {
		return state, nil, nil
	}
	next = binary.LittleEndian.AppendUint64(nil, binary.LittleEndian.Uint64(state)+1)
	plan = append(make([]byte, 0, size), next...)
	for _, p := range slices.SortedStableFunc(slices.Values(pending), func(a, b connector.Pending) int { return cmp.Compare(a.Split, b.Split) }) {
		plan = append(plan, p.Data...)
	}
	return next, plan, nil
}

// Commit implements connector.Committer.
func (c *stdoutCommitter) Commit(ctx context.Context, plan []byte) error {
	if len(plan) == 0 {
		return nil
	}
	if len(plan) < 8 {
		return errors.New("file: the plan in the checkpoint is not that of a sink for standard output")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	if seq := binary.LittleEndian.Uint64(plan); seq != c.log.seq {
		c.log.seq, c.log.written = seq, 0
	}
	lines := plan[8:]
	n, err := c.write(ctx, lines[min(c.log.written, len(lines)):])
	c.log.written += n
	if err != nil && err == ctx.Err() {
		return err
	}
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return closedOutput{err}
	}
	if err != nil {
		return fmt.Errorf("file: writing to standard output: %w", err)
	}
	return nil
}

// write is io.Writer's Write. It ends with ctx if the output is a file that can block. A regular
// file does not block.
func (c *stdoutCommitter) write(ctx context.Context, p []byte) (n int, err error) {
	f, ok := c.out.(*os.File)
	if !ok {
		return c.out.Write(p)
	}
	if info, err := f.Stat(); err != nil || info.Mode().IsRegular() {
		return f.Write(p)
	}
	w, err := newWaiter(f)
	if err != nil {
		return 0, err
	}
	defer func() { err = cmp.Or(err, w.close()) }()
	return w.write(ctx, p)
}

// closedOutput says that the other end of a pipe is closed. A restart does not open it again.
type closedOutput struct{ err error }

func (e closedOutput) Error() string {
	return fmt.Sprintf("file: the reader of standard output has closed it: %v", e.err)
}

func (e closedOutput) Unwrap() error { return e.err }

// Verdict makes it an async.Failure.
func (closedOutput) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// Clean implements connector.Committer.
func (c *stdoutCommitter) Clean(context.Context) error { return nil }

// Close implements connector.Committer.
func (c *stdoutCommitter) Close() error { return nil }
