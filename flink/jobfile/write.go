package jobfile

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/flink/internal/eventtime"
	"github.com/tensorferry/tensorferry/job/inference"
)

func init() {
	register.DoFn2x2[beam.EventTime, flink.FailedRecord, flink.Record, error](&letterFn{})
	register.DoFn2x1[context.Context, flink.Record, error](&filesFn{})
	flink.RegisterRecords[shipped]()
}

// letterFn writes a record that failed as a line of JSON.
type letterFn struct {
	Job   string
	Files splitFiles // nil unless the source reads files

	letters inference.Letters
}

// Setup is called once for each instance.
func (fn *letterFn) Setup() error {
	job, err := arrived(fn.Job)
	if fn.letters = inference.LettersOf(&job.Spec); job.Spec.Source.Kafka != nil {
		fn.letters.Where = job.where
	}
	if fn.Files != nil {
		fn.letters.File = fn.Files.of
	}
	return err
}

// splitFiles are the files of a job's splits, in the order of the splits.
type splitFiles []splitFile

// splitFile is the file of the splits from First on, up to the First of the next file.
type splitFile struct {
	First int64
	Path  string
}

func (s splitFiles) of(split int) (path string, ok bool) {
	i, found := slices.BinarySearchFunc(s, int64(split), func(f splitFile, n int64) int { return cmp.Compare(f.First, n) })
	if !found {
		i--
	}
	if i < 0 {
		return "", false
	}
	return s[i].Path, true
}

// ProcessElement makes one line.
func (fn *letterFn) ProcessElement(at beam.EventTime, f flink.FailedRecord) (flink.Record, error) {
	class := async.Backend
	for class.String() != f.Class && class < async.Permanent {
		class++
	}
	line, err := fn.letters.Line(async.Failed[json.RawMessage]{
		Record: async.Record[json.RawMessage]{Value: f.Record.Value, Split: int(f.Record.Split), Position: f.Record.Position, Time: eventtime.FromBeam(at)},
		Class:  class, Err: errors.New(f.Error), Attempts: f.Attempts, At: time.UnixMilli(f.At),
	})
	r := f.Record
	r.Value = line
	return r, err
}

// wholeName returns the name of the file with all results of a split.
func wholeName(split int64) string { return fmt.Sprintf("part-%06d.jsonl", split) }

// filesFn writes a file for each split in a bundle, which appears when the bundle ends.
type filesFn struct {
	Dir string
	// Whole says that each split is one bundle. Then its file has the split's name, and a
	// repetition replaces the file: exactly once. Otherwise the name also has the position of
	// the first record, so that names are in the order of the input. A bundle that is repeated
	// after a failure then replaces its file only if it begins at the same record. If not,
	// records are there twice: at least once.
	Whole bool

	open map[int64]*part
}

// part is the file of a split in the present bundle.
type part struct {
	file *os.File
	name string
	buf  []byte
	// dropped removes the file when the part becomes unreachable. Beam silently drops the
	// instance of a bundle that failed.
	dropped runtime.Cleanup
}

// newPart makes a file that is not visible yet. Its name is unique, so that bundles of one split do
// not share it.
func newPart(dir, name string) (*part, error) {
	file, err := os.CreateTemp(dir, pendingPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	p := &part{file: file, name: name}
	p.dropped = runtime.AddCleanup(p, func(file string) { _ = os.Remove(file) }, file.Name())
	return p, nil
}

// pendingPrefix is the prefix of the names of files that are not visible yet.
const pendingPrefix = ".pending-"

// flushAt is the number of bytes that are gathered before they are written.
const flushAt = 256 << 10

// StartBundle discards the files of an earlier bundle of this instance that never finished. It
// makes no folder: the submission made it. If this worker does not see that folder, making one here
// would hide the results on this machine.
func (f *filesFn) StartBundle(context.Context) error {
	f.discard()
	f.open = map[int64]*part{}
	return nil
}

func (f *filesFn) discard() {
	for _, p := range f.open {
		p.dropped.Stop()
		p.file.Close()
		os.Remove(p.file.Name())
	}
	f.open = nil
}

// ProcessElement writes a line.
func (f *filesFn) ProcessElement(_ context.Context, r flink.Record) error {
	p := f.open[r.Split]
	if p == nil {
		name := wholeName(r.Split)
		if !f.Whole {
			name = fmt.Sprintf("part-%06d-%020d.jsonl", r.Split, r.Position)
		}
		var err error
		if p, err = newPart(f.Dir, name); err != nil {
			return err
		}
		f.open[r.Split] = p
	}
	p.buf = append(append(p.buf, r.Value...), '\n')
	if len(p.buf) >= flushAt {
		return p.flush()
	}
	return nil
}

func (p *part) flush() error {
	if _, err := p.file.Write(p.buf); err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	p.buf = p.buf[:0]
	return nil
}

// FinishBundle makes the files durable and visible, and makes removals from the folder durable.
func (f *filesFn) FinishBundle(ctx context.Context) error {
	defer f.discard()
	// A worker that has lost its TaskManager is still running, while another may have started
	// on its splits.
	if ctx.Err() != nil {
		return fmt.Errorf("sink: %w", context.Cause(ctx))
	}
	for split, p := range f.open {
		if err := p.flush(); err != nil {
			return err
		}
		err := errors.Join(p.file.Chmod(0o644), p.file.Sync(), p.file.Close())
		if err == nil {
			err = os.Rename(p.file.Name(), filepath.Join(f.Dir, p.name))
		}
		if err != nil {
			return fmt.Errorf("sink: %w", err)
		}
		p.dropped.Stop()
		delete(f.open, split)
	}
	return syncFolder(f.Dir)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
