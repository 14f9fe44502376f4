package server

import "testing"

// What is read from shared memory has no rows, and is bounded all the same. Only what comes when
// nothing is there may be larger than the bound.
func TestAdmissionOfBytesAlone(t *testing.T) {
	a := &admission{maxRows: 10, maxBytes: 100}
	for i, c := range []struct {
		rows  int
		bytes int64
		in    bool
	}{{0, 90, true}, {0, 90, false}, {0, 10, true}, {1, 0, true}, {1, 1, false}, {10, 0, false}} {
		if in := a.enter(c.rows, c.bytes); in != c.in {
			t.Errorf("%d: %+v: %v", i, c, in)
		}
	}
	a.leave(1, 0)
	a.leave(0, 100)
	if !a.enter(0, 200) || a.enter(0, 1) {
		t.Error("one larger than the bound, and nothing beside it")
	}
}
