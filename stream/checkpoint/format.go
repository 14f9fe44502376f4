package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// The format. All integers are little-endian. "uvarint" and "varint" are as in encoding/binary.
// "string" and "bytes" are a uvarint length and that many bytes.
//
//	magic "TFCHKPT\n", uint32 version
//	frames: uint8 kind, uint64 length, payload, uint32 CRC-32C of kind, length and payload
//	  kind 1, once, first: id, job, run, attempt, created, finished, identity, counters
//	  kind 2, one a section, in order
//	  kind 3, once, last: uint32 number of sections, uint32 CRC-32C of all bytes before this frame
//
// Nothing follows the last frame.
const (
	magic = "TFCHKPT\n"
	// Version is the version of the format that Encode writes. Decode reads it and older ones.
	Version = 2

	frameHead    = 1
	frameSection = 2
	frameEnd     = 3

	frameOverhead = 1 + 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Errors that Decode and the methods of Store wrap.
var (
	// ErrCorrupt: the bytes are not a whole snapshot.
	ErrCorrupt = errors.New("the checkpoint is damaged")
	// ErrVersion: a newer program wrote the snapshot.
	ErrVersion = errors.New("the checkpoint has a format that this program does not know")
)

// Encode returns the snapshot in the file format. Equal snapshots have equal bytes.
func Encode(s *Snapshot) []byte {
	b := make([]byte, 0, encodedSize(s))
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, Version)
	b = appendFrame(b, frameHead, func(b []byte) []byte { return appendHead(b, s) })
	for i := range s.Sections {
		b = appendFrame(b, frameSection, func(b []byte) []byte { return appendSection(b, &s.Sections[i]) })
	}
	sum := crc32.Checksum(b, castagnoli)
	return appendFrame(b, frameEnd, func(b []byte) []byte {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s.Sections)))
		return binary.LittleEndian.AppendUint32(b, sum)
	})
}

// encodedSize returns the approximate length of the encoding.
func encodedSize(s *Snapshot) int {
	n := 256 + 64*(len(s.Identity)+len(s.Counters))
	for _, sec := range s.Sections {
		n += 128
		for _, p := range sec.Parts {
			n += 32 + len(p.Name) + len(p.Data)
		}
	}
	return n
}

func appendFrame(b []byte, kind byte, payload func([]byte) []byte) []byte {
	start := len(b)
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint64(b, 0)
	b = payload(b)
	binary.LittleEndian.PutUint64(b[start+1:], uint64(len(b)-start-9))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func appendString[S string | []byte](b []byte, s S) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendHead(b []byte, s *Snapshot) []byte {
	b = binary.AppendVarint(b, s.ID)
	b = appendString(b, s.Job)
	b = appendString(b, s.Run)
	b = binary.AppendVarint(b, int64(s.Attempt))
	b = binary.AppendVarint(b, s.Created.Unix())
	b = binary.AppendUvarint(b, uint64(s.Created.Nanosecond()))
	if s.Finished {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Identity)))
	for _, p := range s.Identity {
		b = appendString(b, p.Name)
		b = appendString(b, p.Value)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Counters)))
	for _, c := range s.Counters {
		b = appendString(b, c.Name)
		b = binary.AppendVarint(b, c.Value)
	}
	return b
}

func appendSection(b []byte, s *Section) []byte {
	b = appendString(b, s.Operator)
	b = appendString(b, s.Kind)
	b = binary.AppendVarint(b, int64(s.Parallelism))
	b = binary.AppendUvarint(b, uint64(len(s.Parts)))
	for _, p := range s.Parts {
		b = binary.AppendVarint(b, int64(p.Split))
		b = binary.AppendVarint(b, int64(p.Subtask))
		b = appendString(b, p.Name)
		b = appendString(b, p.Data)
	}
	return b
}

// Decode reads a snapshot from b. It does not copy the Data of the parts: they are slices of b, so
// b must not be changed afterwards. It checks every length and every checksum. Its errors wrap
// ErrCorrupt or ErrVersion.
func Decode(b []byte) (*Snapshot, error) {
	if len(b) < len(magic)+4 || string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it does not begin like a checkpoint", ErrCorrupt)
	}
	version := binary.LittleEndian.Uint32(b[len(magic):])
	if version > Version {
		return nil, fmt.Errorf("%w: it has version %d, but this program knows versions up to %d; use the newer program that wrote it",
			ErrVersion, version, Version)
	}
	if version == 0 {
		return nil, fmt.Errorf("%w: version 0 does not exist", ErrCorrupt)
	}
	s := &Snapshot{}
	pos := len(magic) + 4
	for frame := 0; ; frame++ {
		kind, payload, err := nextFrame(b, pos)
		if err != nil {
			return nil, err
		}
		d := decoder{b: payload}
		switch {
		case frame == 0 && kind == frameHead:
			d.head(s)
		case frame > 0 && kind == frameSection:
			s.Sections = append(s.Sections, d.section())
		case frame > 0 && kind == frameEnd:
			d.end(s, crc32.Checksum(b[:pos], castagnoli))
		default:
			return nil, fmt.Errorf("%w: frame %d is of kind %d, which does not belong there", ErrCorrupt, frame, kind)
		}
		if d.err == nil && len(d.b) > 0 {
			d.fail("%d bytes too many", len(d.b))
		}
		if d.err != nil {
			return nil, fmt.Errorf("%w: frame %d at byte %d: %w", ErrCorrupt, frame, pos, d.err)
		}
		pos += frameOverhead + len(payload)
		if kind == frameEnd {
			if pos != len(b) {
				return nil, fmt.Errorf("%w: %d bytes follow its end", ErrCorrupt, len(b)-pos)
			}
			return s, nil
		}
	}
}

// nextFrame returns the frame at pos after it has checked the frame's checksum.
func nextFrame(b []byte, pos int) (kind byte, payload []byte, err error) {
	rest := b[pos:]
	if len(rest) < frameOverhead {
		return 0, nil, fmt.Errorf("%w: it ends at byte %d, before its last frame", ErrCorrupt, len(b))
	}
	n := binary.LittleEndian.Uint64(rest[1:])
	if n > uint64(len(rest)-frameOverhead) {
		return 0, nil, fmt.Errorf("%w: it ends at byte %d, inside the frame at byte %d", ErrCorrupt, len(b), pos)
	}
	end := 9 + int(n)
	if binary.LittleEndian.Uint32(rest[end:]) != crc32.Checksum(rest[:end], castagnoli) {
		return 0, nil, fmt.Errorf("%w: the checksum of the frame at byte %d does not match", ErrCorrupt, pos)
	}
	return rest[0], rest[9:end:end], nil
}

// decoder reads a payload. After its first error it returns zero values.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, a ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, a...)
	}
	d.b = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("a number is cut short or too large")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("a number is cut short or too large")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// int reads a number that an int of this machine can hold.
func (d *decoder) int() int {
	v := d.varint()
	if int64(int(v)) != v {
		d.fail("the number %d is out of range", v)
		return 0
	}
	return int(v)
}

// count reads how many elements follow. Each takes at least size bytes, so a false count cannot
// make the reader allocate more memory than the input has bytes.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.fail("%d elements do not fit into %d bytes", n, len(d.b))
		return 0
	}
	return int(n)
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail("%d bytes are needed, but %d are left", n, len(d.b))
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32() uint32 {
	if len(d.b) < 4 {
		d.fail("a number is cut short")
		return 0
	}
	v := binary.LittleEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

func (d *decoder) flag() bool {
	if len(d.b) == 0 || d.b[0] > 1 {
		d.fail("a flag is neither 0 nor 1")
		return false
	}
	v := d.b[0] == 1
	d.b = d.b[1:]
	return v
}

func (d *decoder) head(s *Snapshot) {
	s.ID = d.varint()
	s.Job = string(d.bytes())
	s.Run = string(d.bytes())
	s.Attempt = d.int()
	sec, nsec := d.varint(), d.uvarint()
	if nsec >= 1e9 {
		d.fail("%d nanoseconds are more than a second", nsec)
	}
	s.Created = time.Unix(sec, int64(nsec)).UTC()
	s.Finished = d.flag()
	if n := d.count(2); n > 0 {
		s.Identity = make([]Property, n)
	}
	for i := range s.Identity {
		s.Identity[i] = Property{Name: string(d.bytes()), Value: string(d.bytes())}
	}
	if n := d.count(2); n > 0 {
		s.Counters = make([]Counter, n)
	}
	for i := range s.Counters {
		s.Counters[i] = Counter{Name: string(d.bytes()), Value: d.varint()}
	}
}

func (d *decoder) section() Section {
	s := Section{Operator: string(d.bytes()), Kind: string(d.bytes()), Parallelism: d.int()}
	if n := d.count(4); n > 0 {
		s.Parts = make([]Part, n)
	}
	for i := range s.Parts {
		s.Parts[i] = Part{Split: d.int(), Subtask: d.int(), Name: string(d.bytes()), Data: d.bytes()}
	}
	return s
}

func (d *decoder) end(s *Snapshot, sum uint32) {
	if n := d.uint32(); d.err == nil && n != uint32(len(s.Sections)) {
		d.fail("%d sections were written, but %d are there", n, len(s.Sections))
	}
	if v := d.uint32(); d.err == nil && v != sum {
		d.fail("the checksum of the whole checkpoint does not match")
	}
}
