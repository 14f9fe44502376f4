package checkpoint

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

// Kinds of sections, and names of their parts, that say how far a job has read.
const (
	KindSource = "source" // has a part for each split
	KindAsync  = "async"  // has the records that were in flight
	KindSink   = "sink"

	PartSplit   = "split"
	PartEntries = "entries"
)

// SplitPosition says how far a split had been read at a checkpoint. A checkpoint holds it as JSON.
type SplitPosition struct {
	// Data is the connector's own description of the split. Start is the position of the split's
	// first record.
	Data  []byte `json:"data,omitempty"`
	Start int64  `json:"start"`
	// Next is the position at which reading goes on. Done says that nothing is left to read.
	Next int64 `json:"next"`
	Done bool  `json:"done,omitempty"`
}

// Append appends p to dst in the form that DecodeSplit reads.
func (p SplitPosition) Append(dst []byte) []byte {
	data, err := json.Marshal(p)
	if err != nil {
		panic(err) // bytes and numbers can always be written as JSON
	}
	return append(dst, data...)
}

// DecodeSplit reads what SplitPosition.Append wrote.
func DecodeSplit(data []byte) (p SplitPosition, err error) {
	err = json.Unmarshal(data, &p)
	return p, err
}

// Splits returns the splits of a source's section in the order of their numbers. It returns an
// error if one is missing, is there twice or cannot be read.
func (s *Section) Splits() ([]SplitPosition, error) {
	parts := slices.Clone(s.Parts)
	slices.SortStableFunc(parts, func(a, b Part) int { return cmp.Compare(a.Split, b.Split) })
	var all []SplitPosition
	for i, part := range parts {
		if part.Split != i {
			return nil, fmt.Errorf("split %d is missing or occurs twice", i)
		}
		p, err := DecodeSplit(part.Data)
		if err != nil {
			return nil, fmt.Errorf("split %d: %w", i, err)
		}
		all = append(all, p)
	}
	return all, nil
}

// Positions returns how far the splits of a source had been read at the checkpoint, in the order of
// their numbers. source is the name of the source's operator. It may be empty if the job has one
// source.
func (s *Snapshot) Positions(source string) ([]SplitPosition, error) {
	for i := range s.Sections {
		sec := &s.Sections[i]
		if sec.Kind != KindSource || source != "" && sec.Operator != source {
			continue
		}
		all, err := sec.Splits()
		if err != nil {
			return nil, fmt.Errorf("checkpoint %d, %s: %w", s.ID, sec.Operator, err)
		}
		return all, nil
	}
	return nil, fmt.Errorf("checkpoint %d holds no source %q", s.ID, source)
}

// HoldsRecords reports whether the checkpoint holds records that were in flight. Positions are
// behind those records, so they do not show them.
func (s *Snapshot) HoldsRecords() bool {
	for _, sec := range s.Sections {
		for _, p := range sec.Parts {
			if sec.Kind == KindAsync && p.Name == PartEntries && len(p.Data) > 0 {
				return true
			}
		}
	}
	return false
}
