package server

import "testing"

// Bytes that are read from shared memory have no rows, but are bounded too. Only a request that is
// alone may exceed the bound.
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
		t.Error("a request that exceeds the bound, and is alone, finds no room")
	}
}
