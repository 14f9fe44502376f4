package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// Names of parts in a checkpoint, beside those of package checkpoint.
const (
	// partForm says how the values of the entries are written. Checkpoints of version 1 do not have
	// it: their values are formOwn or JSON.
	partForm  = "form"
	partMarks = "watermarks"
	partState = "state"
	partPlan  = "plan"

	formLayout = "layout" // as the layout of their type says
	formOwn    = "own"    // by a serializer of the user's own
)

// position is a split as checkpoints keep it.
func (s *splitState) position() checkpoint.SplitPosition {
	return checkpoint.SplitPosition{Data: s.split.Data, Start: s.split.Start, Next: s.next, Done: s.done}
}

// keptEntry is one record of an asynchronous operator in a checkpoint. seq is its place among
// all those of its subtask.
type keptEntry[T any] struct {
	seq int
	rec Record[T]
}

// appendEntry writes an entry: numbers as varints, key and value with their lengths.
func appendEntry[T any](dst []byte, seq int, r *Record[T], s Serializer[T], scratch *[]byte) ([]byte, error) {
	value, err := s.Append((*scratch)[:0], r.Value)
	*scratch = value
	if err != nil {
		return dst, err
	}
	dst = binary.AppendUvarint(dst, uint64(seq))
	dst = binary.AppendVarint(dst, int64(r.Time))
	dst = binary.AppendVarint(dst, r.Position)
	dst = appendString(dst, r.Key)
	return appendString(dst, value), nil
}

// valueReader is the half of a Serializer that reads.
type valueReader[T any] interface {
	Decode(data []byte) (T, error)
}

// decodeEntries reads the entries of one part. The values share no memory with data, which another
// restart may read again.
func decodeEntries[T any](data []byte, split int, s valueReader[T]) ([]keptEntry[T], error) {
	f := form{data: data}
	var all []keptEntry[T]
	for len(f.data) > 0 {
		e := keptEntry[T]{seq: int(f.unsigned())}
		e.rec.Split = split
		e.rec.Time = sane(async.EventTime(f.signed()))
		e.rec.Position = f.signed()
		e.rec.Key = string(f.bytes())
		value := slices.Clone(f.bytes())
		if f.err != nil {
			return nil, fmt.Errorf("entries of split %d: %w", split, f.err)
		}
		err := guard("the serializer's Decode", func() (err error) {
			e.rec.Value, err = s.Decode(value)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("the record of split %d at position %d: %w", split, e.rec.Position, err)
		}
		all = append(all, e)
	}
	return all, nil
}

// sane returns t if it is a valid event time, and otherwise NoTime. Earlier versions accepted any
// number.
func sane(t async.EventTime) async.EventTime {
	if t.Valid() || t == async.EndOfTime {
		return t
	}
	return async.NoTime
}

func appendMarks(dst []byte, marks []async.QueuedWatermark) []byte {
	for _, m := range marks {
		dst = binary.AppendUvarint(dst, uint64(m.Before))
		dst = binary.AppendVarint(dst, int64(m.Mark.Time))
		still := uint64(0)
		if m.Mark.Idle {
			still = 1
		}
		dst = binary.AppendUvarint(dst, still)
	}
	return dst
}

func decodeMarks(data []byte) ([]async.QueuedWatermark, error) {
	f := form{data: data}
	var all []async.QueuedWatermark
	for len(f.data) > 0 {
		m := async.QueuedWatermark{Before: int(f.unsigned())}
		t := async.EventTime(f.signed())
		m.Mark.Time = sane(t)
		m.Mark.Idle = f.unsigned() == 1
		if f.err != nil {
			return nil, fmt.Errorf("watermarks: %w", f.err)
		}
		if m.Mark.Time == t || m.Mark.Idle {
			all = append(all, m)
		}
	}
	return all, nil
}

// form reads what the functions above wrote. The bytes may be damaged.
type form struct {
	data []byte
	err  error
}

var errForm = errors.New("the bytes are not what this program writes")

func (f *form) unsigned() uint64 {
	v := f.word()
	if v > 1<<62 {
		f.fail()
		return 0
	}
	return v
}

// word reads a number of all 64 bits.
func (f *form) word() uint64 {
	v, n := binary.Uvarint(f.data)
	if n <= 0 {
		f.fail()
		return 0
	}
	f.data = f.data[n:]
	return v
}

func (f *form) signed() int64 {
	v, n := binary.Varint(f.data)
	if n <= 0 {
		f.fail()
		return 0
	}
	f.data = f.data[n:]
	return v
}

func (f *form) bytes() []byte {
	n := f.unsigned()
	if n > uint64(len(f.data)) {
		f.fail()
		return nil
	}
	b := f.data[:n:n]
	f.data = f.data[n:]
	return b
}

func (f *form) fail() { f.data, f.err = nil, errForm }
