package job

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a job file. Line and Column count from 1; the column counts characters.
type Position struct{ Line, Column int }

// Fault is one thing that is wrong with a job file. It is an error.
type Fault struct {
	// File is the job file's name as it was passed to Load or Parse.
	File string
	Position
	// Message names the key and says what was expected.
	Message string
}

// Error returns the fault as one line, "file:line:column: message".
func (f Fault) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Message)
}

// Faults are all faults of one job file, in the order of their places. The text has one line for
// each.
type Faults []Fault

func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the faults, so that errors.As finds them.
func (fs Faults) Unwrap() []error {
	errs := make([]error, len(fs))
	for i, f := range fs {
		errs[i] = f
	}
	return errs
}

func (fs Faults) sort() {
	slices.SortStableFunc(fs, func(a, b Fault) int {
		return comparePositions(a.Position, b.Position)
	})
}

func comparePositions(a, b Position) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

var noGaps = strings.NewReplacer("-", "", "_", "", " ", "")

// nearest returns the known key that key most likely means, or "" if no known key is near enough.
func nearest(key string, known []string) string {
	best, bestCost := "", max(1, (len(key)+1)/3)
	fold := func(s string) string { return strings.ToLower(noGaps.Replace(s)) }
	for _, k := range known {
		if len(key) > 2*len(k)+2 {
			continue
		}
		cost := distance(fold(key), fold(k))
		if cost <= bestCost && (best == "" || cost < bestCost) {
			best, bestCost = k, cost
		}
	}
	return best
}

// distance is the number of characters to insert, delete, change or swap with
// their neighbour to get from a to b.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
